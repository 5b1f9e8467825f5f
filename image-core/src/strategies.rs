//! Proptest strategies: values of every type, and documents as others may write them.
//!
//! The documents are valid and as unlike our own writer's as JSON allows: members in any order, any white space, text
//! escaped without need, `null` for what is empty, members that nobody knows.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value};

use crate::config::{ContainerConfig, Healthcheck, ImageConfig, Rootfs};
use crate::descriptor::Descriptor;
use crate::digest::{Algorithm, Digest};
use crate::history::History;
use crate::id::DiffId;
use crate::index::Index;
use crate::json::Unknown;
use crate::manifest::Manifest;
use crate::media_type::{Compression, MediaType};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::timestamp::Timestamp;

/// Text with what JSON must escape, and without.
fn text() -> impl Strategy<Value = String> {
    "[ -~äß한\u{1F600}\n\t\"\\\\]{0,16}"
}

fn key() -> impl Strategy<Value = String> {
    "[a-z][a-zA-Z0-9._/-]{0,16}"
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..4)
}

fn text_map() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(key(), text(), 0..4)
}

/// Members that no type knows.
fn unknown() -> impl Strategy<Value = Unknown> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            btree_map(key(), inner, 0..3).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    btree_map("x-[a-z]{1,8}", value, 0..3)
}

/// Digests by sha256 and sha512.
pub fn digest() -> impl Strategy<Value = Digest> {
    let algorithm = prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Sha512)];
    (algorithm, any::<u64>()).prop_map(|(algorithm, seed)| Digest::of(algorithm, &seed.to_be_bytes()))
}

/// Times that RFC 3339 can say, to the nanosecond.
pub fn timestamp() -> impl Strategy<Value = Timestamp> {
    (-62_135_596_800_i64..253_402_300_799, prop_oneof![Just(0), 0_u32..1_000_000_000])
        .prop_map(|(seconds, nanoseconds)| Timestamp::new(seconds, nanoseconds))
}

/// Image names: with and without host, port, tag and digest.
pub fn reference() -> impl Strategy<Value = Reference> {
    let host = prop_oneof![
        Just(String::new()),
        "[a-z]{1,8}\\.[a-z]{2,3}/".prop_map(String::from),
        "localhost:[1-9][0-9]{1,3}/".prop_map(String::from),
        "\\[[0-9a-f]{1,4}::[0-9a-f]{1,4}\\]:[1-9][0-9]{1,3}/".prop_map(String::from),
    ];
    let path = "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,8}){0,2}";
    let tag = option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}");
    let parts = (host, path, tag, option::of(digest()));
    parts.prop_filter_map("no name", |(host, path, tag, digest)| {
        let mut name = host + &path;
        if let Some(tag) = tag {
            name = name + ":" + &tag;
        }
        if let Some(digest) = digest {
            name = name + "@" + &digest.to_string();
        }
        Reference::parse(&name).ok()
    })
}

/// Platforms, usual and not.
pub fn platform() -> impl Strategy<Value = Platform> {
    let os = prop_oneof![Just("linux"), Just("windows"), Just("freebsd")];
    let machine = prop_oneof![
        Just(("amd64", None)),
        Just(("amd64", Some("v3"))),
        Just(("arm64", None)),
        Just(("arm64", Some("v8"))),
        Just(("arm", Some("v6"))),
        Just(("arm", Some("v7"))),
        Just(("386", None)),
        Just(("riscv64", None)),
    ];
    let extra = (option::of("10\\.0\\.[0-9]{1,5}"), vec(key(), 0..2), unknown());
    (os, machine, extra).prop_map(|(os, (architecture, variant), (os_version, os_features, unknown))| {
        let variant = variant.map(str::to_owned);
        Platform { os_version, os_features, variant, unknown, ..Platform::new(os, architecture) }
    })
}

/// Media types of layers, docker's and OCI's.
pub fn layer_media_type() -> impl Strategy<Value = MediaType> {
    let compression = prop_oneof![Just(Compression::None), Just(Compression::Gzip), Just(Compression::Zstd)];
    (compression, any::<bool>()).prop_map(|(compression, docker)| {
        if docker { MediaType::DockerLayer(compression) } else { MediaType::OciLayer(compression) }
    })
}

/// Descriptors of `media_type`.
pub fn descriptor(media_type: impl Strategy<Value = MediaType>) -> impl Strategy<Value = Descriptor> {
    let extra = (vec(key(), 0..2), text_map(), option::of(platform()), option::of(key()), unknown());
    let core = (media_type, digest(), 0..=i64::MAX.unsigned_abs());
    (core, extra).prop_map(
        |((media_type, digest, size), (urls, annotations, platform, artifact_type, unknown))| Descriptor {
            urls,
            annotations,
            platform,
            artifact_type,
            unknown,
            ..Descriptor::new(media_type, digest, size)
        },
    )
}

/// Manifests, docker's and OCI's, with and without a media type inside.
pub fn manifest() -> impl Strategy<Value = Manifest> {
    let media_type = option::of(prop_oneof![Just(MediaType::OciManifest), Just(MediaType::DockerManifest)]);
    let config = descriptor(prop_oneof![Just(MediaType::OciConfig), Just(MediaType::DockerConfig)]);
    let layers = vec(descriptor(layer_media_type()), 0..5);
    let subject = option::of(descriptor(Just(MediaType::OciManifest)));
    (media_type, config, layers, subject, text_map(), unknown()).prop_map(
        |(media_type, config, layers, subject, annotations, unknown)| Manifest {
            media_type,
            subject,
            annotations,
            unknown,
            ..Manifest::oci(config, layers)
        },
    )
}

/// Indexes, docker's and OCI's.
pub fn index() -> impl Strategy<Value = Index> {
    let media_type = option::of(prop_oneof![Just(MediaType::OciIndex), Just(MediaType::DockerIndex)]);
    let manifests =
        vec(descriptor(prop_oneof![Just(MediaType::OciManifest), Just(MediaType::DockerManifest)]), 0..5);
    (media_type, manifests, text_map(), unknown()).prop_map(
        |(media_type, manifests, annotations, unknown)| Index {
            media_type,
            annotations,
            unknown,
            ..Index::oci(manifests)
        },
    )
}

/// One step of an image's making.
pub fn history() -> impl Strategy<Value = History> {
    let texts = (text(), text(), text());
    (option::of(timestamp()), texts, any::<bool>(), unknown()).prop_map(
        |(created, (created_by, author, comment), empty_layer, unknown)| History {
            created,
            created_by,
            author,
            comment,
            empty_layer,
            unknown,
        },
    )
}

fn healthcheck() -> impl Strategy<Value = Healthcheck> {
    (texts(), any::<[u32; 5]>(), unknown()).prop_map(|(test, numbers, unknown)| {
        let [interval, timeout, start_period, start_interval, retries] = numbers.map(i64::from);
        Healthcheck { test, interval, timeout, start_period, start_interval, retries, unknown }
    })
}

fn container_config() -> impl Strategy<Value = ContainerConfig> {
    let run = (texts(), option::of(texts()), option::of(texts()), text(), text());
    let docker = (option::of(healthcheck()), any::<bool>(), texts(), texts(), option::of(0_i64..1_000));
    let sets = (btree_set(key(), 0..3), btree_set(key(), 0..3), text_map(), unknown());
    (run, docker, sets).prop_map(
        |((env, entrypoint, cmd, user, working_dir), docker, (exposed_ports, volumes, labels, unknown))| {
            let (healthcheck, args_escaped, on_build, shell, stop_timeout) = docker;
            ContainerConfig {
                user,
                exposed_ports,
                env,
                entrypoint,
                cmd,
                healthcheck,
                args_escaped,
                volumes,
                working_dir,
                on_build,
                labels,
                stop_signal: String::new(),
                stop_timeout,
                shell,
                unknown,
            }
        },
    )
}

/// Image configs, with docker's members.
pub fn image_config() -> impl Strategy<Value = ImageConfig> {
    let layers = vec(digest().prop_map(DiffId::new), 0..5);
    let parts = (platform(), option::of(timestamp()), option::of(text()), layers);
    (parts, container_config(), vec(history(), 0..6), unknown()).prop_map(
        |((platform, created, author, diff_ids), config, history, unknown)| ImageConfig {
            created,
            author,
            config,
            rootfs: Rootfs { diff_ids, ..Rootfs::default() },
            history,
            unknown,
            ..ImageConfig::empty(&platform)
        },
    )
}

/// `value` as somebody else may write it: any order, any white space, any escapes.
pub fn as_others_write<T: serde::Serialize>(value: &T, seed: u64) -> Vec<u8> {
    let mut writer = Foreign { state: seed | 1, out: Vec::new() };
    // Types of this crate are always written.
    let value = serde_json::to_value(value).unwrap_or(Value::Null);
    writer.value(&value);
    writer.space();
    writer.out
}

/// The documents of `values` as others may write them, each beside what it says.
pub fn document<T: serde::Serialize + std::fmt::Debug>(
    values: impl Strategy<Value = T>,
) -> impl Strategy<Value = (T, Vec<u8>)> {
    (values, any::<u64>()).prop_map(|(value, seed)| {
        let bytes = as_others_write(&value, seed);
        (value, bytes)
    })
}

struct Foreign {
    state: u64,
    out: Vec<u8>,
}

impl Foreign {
    fn below(&mut self, bound: usize) -> usize {
        // xorshift; the low bits of this one are good enough to shuffle with.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state % bound.max(1) as u64).unwrap_or(0)
    }

    fn space(&mut self) {
        let spaces = ["", "", " ", "\n", "\t", "\r\n  "];
        let chosen = self.below(spaces.len());
        self.out.extend_from_slice(spaces.get(chosen).unwrap_or(&"").as_bytes());
    }

    fn text(&mut self, text: &str) {
        self.out.push(b'"');
        for letter in text.chars() {
            let must = matches!(letter, '"' | '\\') || u32::from(letter) < 0x20;
            if must || self.below(8) == 0 {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    self.out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            } else {
                self.out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        self.out.push(b'"');
    }

    fn value(&mut self, value: &Value) {
        self.space();
        match value {
            Value::String(text) => self.text(text),
            Value::Array(values) => {
                self.out.push(b'[');
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        self.out.push(b',');
                    }
                    self.value(value);
                }
                self.space();
                self.out.push(b']');
            }
            Value::Object(members) => self.members(members),
            other => self.out.extend_from_slice(other.to_string().as_bytes()),
        }
        self.space();
    }

    fn members(&mut self, members: &Map<String, Value>) {
        let mut left: Vec<_> = members.iter().collect();
        self.out.push(b'{');
        let mut first = true;
        while !left.is_empty() {
            let at = self.below(left.len());
            let (name, value) = left.swap_remove(at);
            if !std::mem::take(&mut first) {
                self.out.push(b',');
            }
            self.space();
            self.text(name);
            self.space();
            self.out.push(b':');
            self.value(value);
        }
        self.space();
        self.out.push(b'}');
    }
}
