//! Making and packing a layer of many small files, in bytes of content a second.

use cooperage::store::{Entry, Kind, Layer, Store, Transaction, View};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const FILES: u64 = 500;
const SIZE: u64 = 4_096;

fn make(work: &Transaction) -> Option<Layer> {
    let mut layer = work.compose(View::default()).ok()?;
    let content = vec![7_u8; usize::try_from(SIZE).ok()?];
    for number in 0..FILES {
        let entry = Entry::new(Kind::Fifo, 0o644, 0, 0, (0, 0));
        layer.file(format!("d{}/f{number}", number % 10).as_bytes(), &mut content.as_slice(), entry).ok()?;
    }
    layer.finish(None).ok()
}

fn layers(criterion: &mut Criterion) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let Ok(store) = Store::open(dir.path()) else { return };
    let mut group = criterion.benchmark_group("layer");
    group.throughput(Throughput::Bytes(FILES * SIZE)).sample_size(10);
    group.bench_function("compose 500 files of 4 KiB", |bencher| {
        bencher.iter(|| store.begin().ok().and_then(|work| make(&work)));
    });
    let Some(layer) = store.begin().ok().and_then(|work| make(&work).filter(|_| work.commit().is_ok()))
    else {
        return;
    };
    group.bench_function("pack 500 files of 4 KiB", |bencher| {
        bencher.iter(|| store.write_tar(&layer, &mut std::io::sink()).is_ok());
    });
    group.finish();
}

criterion_group!(benches, layers);
criterion_main!(benches);
