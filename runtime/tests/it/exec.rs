//! Further processes in a container.

use std::io::Read;

use runtime::{ExitStatus, Io};

use crate::support::{bench, fresh_id, shell, spec};

#[test]
fn a_second_process_shares_the_containers_namespaces() {
    let Some(bench) = bench() else { return };
    let first = spec(&["/bin/sleep", "1000"]).hostname("shared").build().unwrap();
    let running =
        bench.runtime.create(&fresh_id(), &first, bench.rootfs(), Io::null()).unwrap().start().unwrap();
    let run = |script: &str| {
        let spec = shell(script).env(["PATH=/bin:/usr/bin", "B=2"]).cwd("/tmp").build().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let io = Io::null().stdout(writer.try_clone().unwrap()).stderr(writer);
        let exec = running.exec(spec.process().as_ref().unwrap(), io).unwrap();
        let mut output = String::new();
        reader.read_to_string(&mut output).unwrap();
        (exec.wait().unwrap().status, output)
    };
    let script =
        "hostname; cat /proc/1/comm; echo $B; readlink /proc/self/cwd; id -u; ls /proc/self/fd; exit 5";
    let (status, output) = run(script);
    assert_eq!((status, output.as_str()), (ExitStatus::Code(5), "shared\nsleep\n2\n/tmp\n0\n0\n1\n2\n3\n"));
    let missing = spec(&["nothing"]).build().unwrap();
    let error = running.exec(missing.process().as_ref().unwrap(), Io::null()).unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    let endless = spec(&["/bin/sleep", "1000"]).build().unwrap();
    let exec = running.exec(endless.process().as_ref().unwrap(), Io::null()).unwrap();
    running.delete().unwrap();
    // The first process takes all others of its pid namespace along.
    assert_eq!(exec.wait().unwrap().code(), 137);
}

#[test]
fn a_container_ends_though_nobody_waits_for_its_other_processes() {
    let Some(bench) = bench() else { return };
    let first = spec(&["/bin/cat"]).build().unwrap();
    let (quick, endless) = (shell("exit 0").build().unwrap(), spec(&["/bin/sleep", "1000"]).build().unwrap());
    let begin = || {
        let (reader, writer) = std::io::pipe().unwrap();
        let io = Io::null().stdin(reader);
        let created = bench.runtime.create(&fresh_id(), &first, bench.rootfs(), io).unwrap();
        let running = created.start().unwrap();
        // One that ends before the first process, and one that is ended with it.
        for other in [&quick, &endless] {
            running.exec(other.process().as_ref().unwrap(), Io::null()).unwrap();
        }
        (running, writer)
    };
    let (running, writer) = begin();
    drop(writer);
    assert!(running.wait().unwrap().success());
    running.delete().unwrap();

    let (running, writer) = begin();
    let reactor = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let exit = reactor.block_on(async {
        drop(writer);
        running.wait_async().await
    });
    assert!(exit.unwrap().success());
    running.delete().unwrap();
}
