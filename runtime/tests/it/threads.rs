//! Many containers from a program with many threads.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::host_state;
use crate::support::{bench, shell};

/// Containers per thread; the bench of the runtime issue runs 2,000.
const CONTAINERS: usize = 20;

#[test]
fn a_threaded_host_neither_hangs_nor_changes() {
    let Some(bench) = bench() else { return };
    let before = host_state();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::black_box(vec![String::from("x"); 100]);
                    std::thread::yield_now();
                }
            });
        }
        let runners: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..CONTAINERS {
                        let (exit, output) = bench.run(shell("echo one")).unwrap();
                        assert!(exit.success() && output == "one\n");
                    }
                })
            })
            .collect();
        let results: Vec<_> = runners.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        for result in results {
            result.unwrap();
        }
    });
    assert_eq!(host_state(), before);
    assert!(bench.runtime.list().unwrap().is_empty());
}

/// What the Show of it runs: `MANY` containers from tokio's threads while others allocate and log.
#[test]
#[ignore = "takes minutes: .ci/run runs it by --ignored"]
fn two_thousand_containers_from_tokio() {
    let Some(bench) = bench() else { return };
    let count: usize = std::env::var("MANY").ok().and_then(|text| text.parse().ok()).unwrap_or(2000);
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(8).enable_all().build().unwrap();
    let before = host_state();
    let done = AtomicBool::new(false);
    let spec = std::sync::Arc::new(shell("exit 7").build().unwrap());
    let mut during = Vec::new();
    std::thread::scope(|scope| {
        for number in 0..24 {
            let done = &done;
            scope.spawn(move || {
                let mut log = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    log.push(format!("thread {number}: {:?}", vec![number; 50]));
                    if log.len() > 1000 {
                        std::io::Write::write_all(&mut std::io::sink(), log.concat().as_bytes()).unwrap();
                        log.clear();
                    }
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
            });
        }
        tokio.block_on(async {
            for batch in 0..count.div_ceil(20) {
                let tasks: Vec<_> = (0..20)
                    .map(|_| {
                        let (runtime, spec, root) = (bench.runtime.clone(), spec.clone(), bench.root());
                        tokio::spawn(async move {
                            let running = tokio::task::spawn_blocking(move || {
                                let id = crate::support::fresh_id();
                                let rootfs = runtime::Rootfs::Path(root);
                                runtime.create(&id, &spec, rootfs, runtime::Io::null())?.start()
                            })
                            .await
                            .unwrap()
                            .unwrap();
                            assert_eq!(running.wait_async().await.unwrap().code(), 7);
                            tokio::task::spawn_blocking(move || running.delete()).await.unwrap().unwrap();
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
                let _ = batch;
                during.push(host_state());
            }
        });
        done.store(true, Ordering::Relaxed);
    });
    assert!(during.iter().all(|state| *state == before), "the host changed");
    bench.runtime.shutdown();
    assert_eq!(host_state(), before);
    assert!(bench.runtime.list().unwrap().is_empty());
    println!("containers: {count}, errors: 0, hangs: 0");
}
