//! The cases.

use super::*;

pub(super) const ALL: &[Case] = &[
    ("a snapshot of nothing is empty", |bench| {
        bench.change(|root| must(look(root)?.is_empty(), "something is there"))?;
        let layer = bench.change(|root| Ok(root.write("file", "text")?))?;
        names(&layer, &["file"])
    }),
    ("a snapshot shows the layers", |bench| {
        some(bench)?;
        let expected = bench.indexed();
        compare("a view", &expected, &bench.seen()?)?;
        let layer = bench.change(|root| compare("a snapshot", &expected, &look(root)?))?;
        names(&layer, &[])
    }),
    ("a layer holds what was changed and no more", |bench| {
        some(bench)?;
        let layer = bench.change(|root| {
            root.write("d/new", "new")?;
            Ok(root.write("top", "other")?)
        })?;
        names(&layer, &["d", "d/new", "top"])
    }),
    ("the layers below stay as they are", |bench| {
        some(bench)?;
        let before = bench.indexed();
        let below = bench.layers.clone();
        bench.change(|root| {
            root.write("top", "changed")?;
            fs::remove_file(root.path("d/one"))?;
            Ok(fs::rename(root.path("d/two"), root.path("moved"))?)
        })?;
        bench.layers = below;
        compare("the layers below", &before, &bench.seen()?)
    }),
    ("what is removed is gone", |bench| {
        some(bench)?;
        let layer = bench.change(|root| {
            fs::remove_file(root.path("top"))?;
            Ok(fs::remove_dir_all(root.path("d"))?)
        })?;
        names(&layer, &["d", "top"])?;
        must(layer.index().entries.values().all(|entry| entry.kind == Kind::Whiteout), "no whiteouts")
    }),
    ("a directory that was made again is empty", |bench| {
        some(bench)?;
        bench.change(|root| {
            fs::remove_dir_all(root.path("d"))?;
            root.dir("d")?;
            Ok(root.write("d/only", "1")?)
        })?;
        must(!bench.indexed().contains_key(b"d/one".as_slice()), "an old file is there again")
    }),
    ("a file becomes a directory and a directory a file", |bench| {
        some(bench)?;
        bench.change(|root| {
            fs::remove_file(root.path("top"))?;
            root.dir("top/of")?;
            fs::remove_dir_all(root.path("d"))?;
            Ok(root.write("d", "file")?)
        })?;
        bench.change(|root| {
            fs::remove_file(root.path("d"))?;
            Ok(root.dir("d")?)
        })?;
        Ok(())
    }),
    ("a symbolic link replaces and is replaced", |bench| {
        some(bench)?;
        bench.change(|root| {
            fs::remove_file(root.path("link"))?;
            root.write("link", "file")?;
            fs::remove_file(root.path("top"))?;
            Ok(symlink("../outside", root.path("top"))?)
        })?;
        Ok(())
    }),
    ("files and directories are renamed", |bench| {
        some(bench)?;
        bench.change(|root| {
            fs::rename(root.path("top"), root.path("renamed"))?;
            // An overlay says EXDEV for a directory of a lower layer: then a program copies.
            match fs::rename(root.path("d"), root.path("e")) {
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    root.dir("e")?;
                    for name in ["one", "two"] {
                        fs::copy(root.path("d").join(name), root.path("e").join(name))?;
                    }
                    Ok(fs::remove_dir_all(root.path("d"))?)
                }
                other => Ok(other?),
            }
        })?;
        Ok(())
    }),
    ("a mode alone is a change", |bench| {
        some(bench)?;
        let layer = bench.change(|root| {
            fs::set_permissions(root.path("top"), fs::Permissions::from_mode(0o4711))?;
            Ok(fs::set_permissions(root.path("d"), fs::Permissions::from_mode(0o1777))?)
        })?;
        names(&layer, &["d", "top"])
    }),
    ("a time alone is a change", |bench| {
        some(bench)?;
        let layer = bench.change(|root| Ok(root.stamp("d/one", 1_234_567)?))?;
        must(layer.index().entries.contains_key(b"d/one".as_slice()), "not in the layer")
    }),
    ("an attribute alone is a change", |bench| {
        some(bench)?;
        let set = |root: &Root, value: &[u8]| {
            rustix::fs::setxattr(root.path("top"), "user.note", value, XattrFlags::empty())
        };
        bench.change(|root| Ok(set(root, b"one")?))?;
        bench.change(|root| Ok(set(root, b"two")?))?;
        bench.change(|root| Ok(rustix::fs::removexattr(root.path("top"), "user.note")?))?;
        Ok(())
    }),
    ("other bytes of the same length at the same time are a change", |bench| {
        some(bench)?;
        let layer = bench.change(|root| {
            let time = fs::metadata(root.path("d/one"))?.modified()?;
            root.write("d/one", "eno")?;
            Ok(fs::File::open(root.path("d/one"))?.set_modified(time)?)
        })?;
        must(layer.index().entries.contains_key(b"d/one".as_slice()), "not in the layer")
    }),
    ("an owner alone is a change", |bench| {
        if Direct::detect().owners() == Owners::Single {
            return Ok(());
        }
        some(bench)?;
        bench.change(|root| {
            std::os::unix::fs::lchown(root.path("top"), Some(1_000), Some(70_000))?;
            Ok(std::os::unix::fs::lchown(root.path("link"), Some(3), Some(4))?)
        })?;
        Ok(())
    }),
    ("a new name of a file below stays a name of it", |bench| {
        some(bench)?;
        bench.change(|root| Ok(fs::hard_link(root.path("top"), root.path("d/name"))?))?;
        must(
            matches!(bench.indexed().get(b"top".as_slice()), Some(Shown { kind: Kind::Hardlink { .. }, .. })),
            "two files after the commit",
        )
    }),
    ("one of two names of a file below goes", |bench| {
        some(bench)?;
        bench.base(|layer| {
            layer.file(b"h/a", &mut "linked".as_bytes(), entry())?;
            layer.hardlink(b"h/b", b"h/a")
        })?;
        bench.change(|root| Ok(fs::remove_file(root.path("h/a"))?))?;
        must(bench.indexed().contains_key(b"h/b".as_slice()), "both are gone")
    }),
    ("what is written through one name is read through the other", |bench| {
        bench.base(|layer| {
            layer.file(b"a", &mut "linked".as_bytes(), entry())?;
            layer.file(b"z", &mut "last".as_bytes(), entry())
        })?;
        bench.change(|root| {
            fs::hard_link(root.path("z"), root.path("b"))?;
            fs::OpenOptions::new()
                .append(true)
                .open(root.path("b"))
                .and_then(|mut file| io::Write::write_all(&mut file, b"more"))?;
            must(fs::read(root.path("z"))? == b"lastmore", "they differ")
        })?;
        Ok(())
    }),
    ("fifos and devices", |bench| {
        some(bench)?;
        bench.change(|root| {
            let make = |name, kind, device| {
                rustix::fs::mknodat(rustix::fs::CWD, root.path(name), kind, Mode::RUSR, device)
            };
            make("fifo", FileType::Fifo, 0)?;
            if Direct::detect().owners() == Owners::True {
                make("device", FileType::CharacterDevice, rustix::fs::makedev(1, 3))?;
            }
            Ok(())
        })?;
        let device = Entry::new(Kind::CharDevice(rustix::fs::makedev(1, 5)), 0o600, 0, 0, (1, 0));
        bench.base(|layer| layer.node(b"d/device", device))?;
        bench.change(|root| Ok(root.write("d/after", "1")?))?;
        Ok(())
    }),
    ("what an image says of its root is seen", |bench| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o711);
        header.set_mtime(5);
        header.set_size(0);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "./", io::empty())?;
        let bytes = archive.into_inner()?;
        bench.layers.push(bench.work.import(bytes.as_slice(), &View::default())?.layer);
        bench.change(|root| must(fs::metadata(root.path("."))?.mode() & 0o7777 == 0o711, "another mode"))?;
        Ok(())
    }),
    ("a layer twice in the stack", |bench| {
        some(bench)?;
        bench.layers.extend(bench.layers.clone());
        bench.change(|root| Ok(root.write("top", "once")?))?;
        Ok(())
    }),
    ("snapshots over the same layers do not see each other", |bench| {
        some(bench)?;
        let (one, other) = (bench.work.snapshot(&bench.layers)?, bench.work.snapshot(&bench.layers)?);
        let (first, second) = (Root::of(one.upper()?)?, Root::of(other.upper()?)?);
        first.write("top", "first")?;
        must(fs::read(second.path("top"))? == b"top", "one sees the other")
    }),
    ("dropped and removed snapshots leave nothing", |bench| {
        some(bench)?;
        let count = |bench: &Bench| bench.work.staging().all_names().map(|names| names.len());
        let before = count(bench)?;
        let snapshot = bench.work.snapshot(&bench.layers)?;
        Root::of(snapshot.upper()?)?.write("big", &"x".repeat(100_000))?;
        drop(snapshot);
        must(count(bench)? == before, "dropped")?;
        let snapshot = bench.work.snapshot(&bench.layers)?;
        Root::of(snapshot.upper()?)?.write("big", &"x".repeat(100_000))?;
        snapshot.remove()?;
        must(count(bench)? == before, "removed")?;
        drop(bench.work.view(&bench.layers)?);
        must(count(bench)? == before, "viewed")
    }),
    ("mount points are no changes, and what is put there is", |bench| {
        some(bench)?;
        let points = [(b"proc".to_vec(), true), (b"d/conf".to_vec(), false), (b"m/n/o".to_vec(), true)];
        let snapshot = bench.work.snapshot(&bench.layers)?;
        snapshot.upper()?.mount_points(&points)?;
        names(&snapshot.commit(None)?, &[])?;
        let snapshot = bench.work.snapshot(&bench.layers)?;
        snapshot.upper()?.mount_points(&points)?;
        let root = Root::of(snapshot.upper()?)?;
        root.dir("m/n/o")?;
        root.write("m/n/o/file", "kept")?;
        drop(root);
        names(&snapshot.commit(None)?, &["m", "m/n", "m/n/o", "m/n/o/file"])
    }),
    ("times later than the latest become it", |bench| {
        some(bench)?;
        let snapshot = bench.work.snapshot(&bench.layers)?;
        Root::of(snapshot.upper()?)?.write("d/late", "1")?;
        let layer = snapshot.commit(Some(Timestamp::from_seconds(1_000)))?;
        bench.layers.push(layer);
        let late = bench.seen()?.remove(b"d/late".as_slice()).ok_or("not there")?;
        must(late.mtime == (1_000, 0), "its time stayed")
    }),
    ("128 layers", |bench| {
        for number in 0..127_u32 {
            bench.base(|layer| {
                layer.file(format!("d/{number}").as_bytes(), &mut "1".as_bytes(), entry())?;
                layer.file(b"last", &mut number.to_string().as_bytes(), entry())
            })?;
        }
        bench.change(|root| {
            must(fs::read(root.path("last"))? == b"126", "not the topmost")?;
            must(fs::read_dir(root.path("d"))?.count() == 127, "some are missing")?;
            Ok(fs::remove_file(root.path("d/5"))?)
        })?;
        Ok(())
    }),
    ("a container goes on in another process", |bench| {
        some(bench)?;
        bench.work.commit()?;
        let config = image_core::ImageConfig::empty(&image_core::Platform::new("linux", "amd64"));
        let image = bench.work.image_of(config, &bench.layers)?;
        bench.work.commit()?;
        bench.store.put_image(&image)?;
        let new = crate::NewContainer::new("x", Vec::new(), Timestamp::from_seconds(1));
        let mut container = bench.store.create_container(&image, new)?;
        Root::of(container.upper())?.write("wrote", "12345")?;
        let id = container.record().id.clone();
        container.release();
        drop(container);
        let driver = bench.store.snapshotter()?;
        let again = Store::open_with(bench.store.path(), options(driver))?;
        must(again.container_size(&id)? == 5, "another size")?;
        let upper = again.container_upper(&id)?;
        must(upper.changes()?.entries.keys().eq([b"wrote".as_slice()]), "other changes")?;
        must(fs::read(Root::of(&upper)?.path("wrote"))? == b"12345", "not there")?;
        let layer = again.begin()?.layer_of_container(&id, None)?;
        names(&layer, &["wrote"])?;
        must(again.check()?.is_sound(), "the store is not sound")?;
        must(again.remove_container(&id)? == 5, "another size when it went")
    }),
];

fn entry() -> Entry {
    Entry::new(Kind::Fifo, 0o644, 0, 0, (1_000_000, 7))
}

/// A layer with some of everything.
fn some(bench: &mut Bench) -> Checked {
    bench.base(|layer| {
        let directory = Entry { kind: Kind::Directory { opaque: false }, mode: 0o755, ..entry() };
        layer.directory(b"d", directory)?;
        layer.file(b"d/one", &mut "one".as_bytes(), entry())?;
        layer.file(b"d/two", &mut "two".as_bytes(), entry())?;
        layer.file(b"top", &mut "top".as_bytes(), entry())?;
        layer.symlink(b"link", b"d/one", entry())
    })
}

/// The layer holds these and nothing else.
fn names(layer: &Layer, expected: &[&str]) -> Checked {
    let found: Vec<_> = layer.index().entries.keys().map(|path| String::from_utf8_lossy(path)).collect();
    must(found == expected, format!("the layer holds {found:?} and not {expected:?}"))
}
