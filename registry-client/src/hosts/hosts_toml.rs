//! containerd's `hosts.toml`: one directory per registry, with the servers that stand for it.
//!
//! Source: containerd, `docs/hosts.md`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::registries_conf::{read, told};
use super::{HostRule, HostRules, HostsError, Mirror, MirrorUse};
use crate::credential::Secret;
use crate::settings;
use crate::transport::{ClientIdentity, TlsSettings};

/// The file in each directory.
const FILE: &str = "hosts.toml";
/// The directory for registries without their own.
const DEFAULT: &str = "_default";

/// A directory like `/etc/containerd/certs.d`: `HOST[:PORT]/hosts.toml`, and `_default/hosts.toml` for the others.
///
/// ```no_run
/// use registry_client::Client;
/// use registry_client::hosts::HostsToml;
///
/// let rules = HostsToml::read("/etc/containerd/certs.d")?;
/// let client = Client::builder().hosts(rules).build()?;
/// # let _ = client;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct HostsToml;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    server: String,
    #[serde(default)]
    host: Hosts,
    #[serde(flatten)]
    own: Table,
}

#[derive(Default, Deserialize)]
struct Table {
    #[serde(default)]
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    ca: Option<OneOrMany>,
    #[serde(default)]
    client: Option<Client>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: Headers,
    #[serde(default)]
    override_path: bool,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a file, a list of files, or a list of pairs of files")]
enum Client {
    /// Certificate and key in one file.
    One(String),
    Many(Vec<String>),
    /// Certificate and key, or one file with both.
    Pairs(Vec<Vec<String>>),
}

/// Tables in the order of the file, which is the order in which the servers are asked.
#[derive(Default)]
struct Hosts(Vec<(String, Table)>);

type Headers = std::collections::BTreeMap<String, OneOrMany>;

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Hosts;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("tables of hosts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Hosts, A::Error> {
                let mut hosts = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    hosts.push(entry);
                }
                Ok(Hosts(hosts))
            }
        }
        deserializer.deserialize_map(Ordered)
    }
}

impl HostsToml {
    /// Reads all `hosts.toml` files of a directory. One that does not exist says nothing. Certificates that they name
    /// are read now, relative ones from beside the file.
    ///
    /// # Errors
    /// [`HostsError`]: a file cannot be read, is longer than 4 MiB, is not TOML, or says something that cannot be meant.
    pub fn read(directory: impl AsRef<Path>) -> Result<HostRules, HostsError> {
        let directory = directory.as_ref();
        let entries = settings::list(directory)
            .map_err(|source| HostsError::Read { path: directory.to_owned(), source })?;
        let mut rules = HostRules::new();
        for entry in entries {
            let Some(name) = entry.file_name().and_then(|name| name.to_str()) else { continue };
            let path = entry.join(FILE);
            if let Some(text) = read(&path)? {
                rules = rules.with(Self::parse(&registry_of(name), &path, &text)?);
            }
        }
        Ok(rules)
    }

    /// Takes the text of one file, for the registry `registry`; `path` is for messages and for relative paths in it.
    ///
    /// # Errors
    /// As [`HostsToml::read`].
    pub fn parse(registry: &str, path: &Path, text: &str) -> Result<HostRule, HostsError> {
        let file: File = toml::from_str(text)
            .map_err(|error| HostsError::Malformed { path: path.to_owned(), what: told(&error, text) })?;
        let default = registry == "*";
        let mut rule = HostRule::new(registry);
        for (address, table) in file.host.0 {
            let Some(usage) = table.usage(path, &address)? else { continue };
            let mirror = table.apply(address_of(&address)?, path, &address)?.used_for(usage);
            let own = mirror.authority == registry || is_hub(registry, &mirror.authority);
            rule = rule.mirror(mirror.namespace(!own));
        }
        if file.server.is_empty() {
            // The registry itself, with the settings that stand at the top.
            if !default && file.own.has_settings() {
                let own = address_of(&format!("https://{}", server_of(registry)))?;
                rule = rule.server(file.own.apply(own, path, registry)?);
            }
            return Ok(rule);
        }
        let usage = file.own.usage(path, &file.server)?;
        let server = file.own.apply(address_of(&file.server)?, path, &file.server)?;
        if default {
            // One server for all registries is a proxy and knows only by `ns` which of them is meant.
            return Ok(rule.mirror(server.namespace(true)).replace(true));
        }
        let own = server.authority == registry || is_hub(registry, &server.authority);
        rule = rule.server(server.namespace(!own));
        Ok(if usage.is_none() { rule.replace(true) } else { rule })
    }
}

impl Table {
    /// What the capabilities mean for pulls: `resolve` is for tags, `pull` for digests. `None` when it is for neither.
    fn usage(&self, path: &Path, address: &str) -> Result<Option<MirrorUse>, HostsError> {
        let Some(capabilities) = &self.capabilities else { return Ok(Some(MirrorUse::All)) };
        let known = ["pull", "resolve", "push", "referrers"];
        if !capabilities.iter().all(|capability| known.contains(&capability.as_str())) {
            return Err(entry(
                path,
                address,
                "a capability that is none of pull, resolve, push and referrers",
            ));
        }
        let has = |name: &str| capabilities.iter().any(|capability| capability == name);
        Ok(match (has("pull"), has("resolve")) {
            (true, true) => Some(MirrorUse::All),
            (true, false) => Some(MirrorUse::DigestOnly),
            (false, true) => Some(MirrorUse::ResolveOnly),
            (false, false) => None,
        })
    }

    fn has_settings(&self) -> bool {
        self.ca.is_some()
            || self.client.is_some()
            || self.skip_verify
            || self.override_path
            || !self.header.is_empty()
    }

    fn apply(&self, mut mirror: Mirror, path: &Path, address: &str) -> Result<Mirror, HostsError> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut tls = TlsSettings::default().skip_verify(self.skip_verify);
        let mut own_tls = self.skip_verify;
        for file in self.ca.iter().flat_map(OneOrMany::texts) {
            tls = tls.authority_pem(bytes(&directory.join(file))?);
            own_tls = true;
        }
        if let Some((certificate, key)) = self.client_files(path, address)? {
            let pem = bytes(&directory.join(certificate))?;
            let key_path = directory.join(key);
            let key = String::from_utf8(bytes(&key_path)?)
                .map_err(|_| entry(path, address, "a client key that is not PEM text"))?;
            tls = tls.identity(ClientIdentity::from_pem(pem, Secret::new(key)));
            own_tls = true;
        }
        if own_tls {
            mirror = mirror.tls(tls);
        }
        for (name, values) in &self.header {
            for value in values.texts() {
                mirror = mirror.header(name, value)?;
            }
        }
        Ok(mirror.override_path(self.override_path))
    }

    /// Certificate and key; of several pairs the first, because a connection presents one.
    fn client_files(&self, path: &Path, address: &str) -> Result<Option<(String, String)>, HostsError> {
        let both = |file: &String| Some((file.clone(), file.clone()));
        Ok(match &self.client {
            None => None,
            Some(Client::One(file)) => both(file),
            Some(Client::Many(files)) => files.first().and_then(both),
            Some(Client::Pairs(pairs)) => match pairs.first().map(Vec::as_slice) {
                None | Some([]) => None,
                Some([file]) => both(file),
                Some([certificate, key]) if key.is_empty() => both(certificate),
                Some([certificate, key]) => Some((certificate.clone(), key.clone())),
                Some(_) => return Err(entry(path, address, "client has more than a certificate and a key")),
            },
        })
    }
}

impl OneOrMany {
    fn texts(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts.as_slice(),
        }
        .iter()
    }
}

/// A scheme is optional.
fn address_of(text: &str) -> Result<Mirror, HostsError> {
    if text.contains("://") { Mirror::url(text) } else { Mirror::url(&format!("https://{text}")) }
}

/// The registry that a directory is for: colons may be written as `_PORT_`.
fn registry_of(directory: &str) -> String {
    if directory == DEFAULT {
        return "*".to_owned();
    }
    let port = directory.strip_suffix('_').and_then(|rest| rest.rsplit_once('_'));
    match port.filter(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())) {
        Some((host, port)) => format!("{host}:{port}"),
        None => directory.to_owned(),
    }
}

fn is_hub(registry: &str, authority: &str) -> bool {
    registry == "docker.io" && authority == "registry-1.docker.io"
}

fn server_of(registry: &str) -> &str {
    if registry == "docker.io" { "registry-1.docker.io" } else { registry }
}

fn bytes(path: &Path) -> Result<Vec<u8>, HostsError> {
    settings::read(path).map_err(|source| HostsError::Read { path: path.to_owned(), source })
}

fn entry(path: &Path, entry: &str, what: &'static str) -> HostsError {
    HostsError::Entry { path: PathBuf::from(path), entry: entry.to_owned(), what }
}
