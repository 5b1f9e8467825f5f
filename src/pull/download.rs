//! The blobs of an image from a registry into the store, several at a time.
//!
//! ```text
//!  socket ─▶ hash, file ─▶ decode, hash, parse, write      a layer is unpacked as its bytes come
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use image_core::{Descriptor, DiffId, Reference};
use layer_store::{Arrivals, Layer, Transaction};
use registry_client::Client;
use tokio::task::JoinSet;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::event::{Event, EventSink};
use crate::task::blocking;

/// How many blobs are downloaded at the same time, as in dockerd.
const DOWNLOADS: usize = 3;

impl Engine {
    /// Downloads the blobs `missing` of `layers` and unpacks all layers meanwhile.
    ///
    /// # Errors
    /// Of the download, where that is why a layer could not be unpacked.
    pub(super) async fn download_and_unpack(
        &self,
        name: &Reference,
        missing: Vec<Descriptor>,
        layers: Vec<(Descriptor, DiffId)>,
        work: &Transaction,
        events: &EventSink,
    ) -> Result<Vec<Layer>> {
        let (arrivals, arriving) = work.expect(&missing);
        let mut downloads = Downloads {
            client: self.client().clone(),
            name: name.clone(),
            work: work.clone(),
            events: events.clone(),
            waiting: missing.into(),
            arrivals: Arc::new(arrivals),
            tasks: JoinSet::new(),
        };
        let (sink, into) = (events.clone(), work.clone());
        let mut unpacking = std::pin::pin!(blocking(move || {
            let done =
                |blob: &Descriptor| sink(&Event::Pull { digest: blob.digest, status: "Pull complete" });
            let unpacked = into.unpack_arriving(&layers, &arriving, &done)?;
            Ok(unpacked.into_iter().map(|unpacked| unpacked.layer).collect())
        }));
        let unpacked: Result<Vec<Layer>> = tokio::select! {
            unpacked = &mut unpacking => unpacked,
            downloaded = downloads.run() => match downloaded {
                Ok(()) => unpacking.await,
                Err(error) => {
                    downloads.stop().await;
                    // It ends, as no blob comes any more; what it then says is not why.
                    drop(unpacking.await);
                    return Err(error);
                }
            },
        };
        match unpacked {
            Ok(layers) => {
                downloads.run().await?;
                Ok(layers)
            }
            Err(error) => {
                // What was read of a blob that is not verified may be the network's doing: what is under way is waited for,
                // and its failure comes first.
                downloads.waiting.clear();
                let blamed = downloads.run().await;
                downloads.stop().await;
                blamed.and(Err(error))
            }
        }
    }
}

struct Downloads {
    client: Client,
    name: Reference,
    work: Transaction,
    events: EventSink,
    waiting: VecDeque<Descriptor>,
    arrivals: Arc<Arrivals>,
    tasks: JoinSet<Result<()>>,
}

impl Downloads {
    /// Until all are there or one failed. Dropping the future loses nothing: called again, it goes on.
    async fn run(&mut self) -> Result<()> {
        loop {
            while self.tasks.len() < DOWNLOADS
                && let Some(blob) = self.waiting.pop_front()
            {
                let (client, name, work) = (self.client.clone(), self.name.clone(), self.work.clone());
                let (sink, arrivals) = (self.events.clone(), self.arrivals.clone());
                self.tasks.spawn(async move {
                    download(&client, &name, &blob, &work, &arrivals).await?;
                    sink(&Event::Pull { digest: blob.digest, status: "Download complete" });
                    arrivals.arrived(&blob.digest);
                    Ok(())
                });
            }
            match self.tasks.join_next().await {
                Some(done) => done.map_err(|_| Error::Worker)??,
                None => return Ok(()),
            }
        }
    }

    /// Ends what is under way; nobody waits for it any more.
    async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// One blob into the store; goes on where an earlier attempt was cut.
async fn download(
    client: &Client,
    name: &Reference,
    blob: &Descriptor,
    work: &Transaction,
    arrivals: &Arrivals,
) -> Result<()> {
    let resume = || {
        let (work, blob) = (work.clone(), blob.clone());
        blocking(move || Ok(work.resume(&blob)?))
    };
    let mut ingest = resume().await?;
    if ingest.offset() > 0 {
        let (have, digester) = (ingest.offset(), ingest.digester());
        match client.blob_rest_into(name, blob, have, digester, ingest).await {
            Ok(ingest) => return blocking(move || Ok(ingest.finish().map(drop)?)).await,
            // What was there was damaged meanwhile: it is whole now, and wrong, so that nothing goes on with it.
            Err(registry_client::Error::DigestMismatch { .. }) => ingest = resume().await?,
            Err(error) => return Err(error.into()),
        }
    }
    // What a mirror sends is asked for again elsewhere when it is wrong, so nobody may have read it.
    if !client.has_mirrors(name) {
        arrivals.begin(&mut ingest);
    }
    let ingest = client.blob_into(name, blob, ingest).await?;
    blocking(move || Ok(ingest.finish().map(drop)?)).await
}
