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
