//! The life of a container.

use runtime::{ExitStatus};

use crate::support::{bench, shell};

#[test]
fn exit_codes_and_output_come_back() {
    let Some(bench) = bench() else { return };
    let (exit, output) = bench.run(shell("echo hello; exit 7")).unwrap();
    assert_eq!((exit.status, output.as_str()), (ExitStatus::Code(7), "hello\n"));
    assert!(exit.usage.is_some());
}
