//! `RUN --mount=type=…,target=…` and `--device`.

use crate::csv;
use crate::plan::{Device, Sharing};
use crate::quote::quote;
use crate::suggest;

/// The type of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MountType {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

const TYPES: [(&str, MountType); 5] = [
    ("bind", MountType::Bind),
    ("cache", MountType::Cache),
    ("tmpfs", MountType::Tmpfs),
    ("secret", MountType::Secret),
    ("ssh", MountType::Ssh),
];

const SHARING: [(&str, Sharing); 3] =
    [("shared", Sharing::Shared), ("private", Sharing::Private), ("locked", Sharing::Locked)];

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// A mount as its fields say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountSpec {
    pub(crate) kind: MountType,
    pub(crate) from: String,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) readonly: bool,
    pub(crate) size: i64,
    pub(crate) id: String,
    pub(crate) sharing: Option<Sharing>,
    pub(crate) required: bool,
    pub(crate) env: Option<String>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// A refusal, with a hint.
pub(crate) type Refusal = (String, Option<String>);

fn plain(text: impl Into<String>) -> Refusal {
    (text.into(), None)
}

impl MountType {
    fn name(self) -> &'static str {
        TYPES.into_iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

impl MountSpec {
    /// What can be known before variables are: whether the line is well formed, and `from`.
    pub(crate) fn from_of(text: &str) -> Result<String, Refusal> {
        let mut from = String::new();
        for field in
            csv::fields(text).map_err(|cause| plain(format!("failed to parse csv mounts: {cause}")))?
        {
            if let Some((key, value)) = field.split_once('=')
                && key.eq_ignore_ascii_case("from")
            {
                if value.find('$').is_some_and(|at| at + 1 != value.len()) {
                    return Err((
                        "'from' doesn't support variable expansion, define alias stage instead".to_owned(),
                        Some("add `FROM ${name} AS alias` and mount from the alias".to_owned()),
                    ));
                }
                value.clone_into(&mut from);
            }
        }
        Ok(from)
    }

    /// Reads all fields, whose values `expand` expands.
    pub(crate) fn read<E: From<Refusal>>(
        text: &str,
        mut expand: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Self, E> {
        let mut spec = Self::default();
        let mut automatic = true;
        let fields =
            csv::fields(text).map_err(|cause| plain(format!("failed to parse csv mounts: {cause}")))?;
        for field in &fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value)),
                None => (field.to_lowercase(), None),
            };
            let Some(value) = value else {
                match key.as_str() {
                    "readonly" | "ro" | "readwrite" | "rw" => {
                        spec.readonly = matches!(key.as_str(), "readonly" | "ro");
                        automatic = false;
                    }
                    "required" if matches!(spec.kind, MountType::Secret | MountType::Ssh) => {
                        spec.required = true;
                    }
                    "required" => return Err(spec.unexpected(&key).into()),
                    _ => {
                        return Err(plain(format!("invalid field '{field}' must be a key=value pair")).into());
                    }
                }
                continue;
            };
            let value = expand(value)?;
            spec.field(field, &key, value, &mut automatic)?;
        }
        spec.finish(automatic)?;
        Ok(spec)
    }

    fn unexpected(&self, key: &str) -> Refusal {
        plain(format!("unexpected key '{key}' for mount type '{}'", self.kind.name()))
    }

    fn field(&mut self, field: &str, key: &str, value: String, automatic: &mut bool) -> Result<(), Refusal> {
        let invalid = || plain(format!("invalid value for {key}: {value}"));
        let number = || {
            value
                .parse::<u32>()
                .ok()
                .filter(|_| !value.starts_with('+'))
                .ok_or_else(|| plain(format!("invalid value {value} for {key}")))
        };
        match key {
            "type" => self.kind = choose(&TYPES, &value, "mount type")?,
            "from" => self.from = value,
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" | "readwrite" | "rw" => {
                let yes = parse_bool(&value).ok_or_else(invalid)?;
                self.readonly = yes == matches!(key, "readonly" | "ro");
                *automatic = false;
            }
            "required" if matches!(self.kind, MountType::Secret | MountType::Ssh) => {
                self.required = parse_bool(&value).ok_or_else(invalid)?;
            }
            "size" if self.kind == MountType::Tmpfs => self.size = parse_size(&value).ok_or_else(invalid)?,
            "required" | "size" => return Err(self.unexpected(key)),
            "id" => self.id = value,
            "sharing" => self.sharing = Some(choose(&SHARING, &value, "sharing value")?),
            "mode" => {
                let mode = u32::from_str_radix(&value, 8).ok().filter(|_| !value.starts_with('+'));
                self.mode = Some(mode.ok_or_else(|| plain(format!("invalid value {value} for mode")))?);
            }
            "uid" => self.uid = Some(number()?),
            "gid" => self.gid = Some(number()?),
            "env" => self.env = Some(value),
            _ => {
                let hint = suggest::nearest(key, KEYS).map(|hint| format!("did you mean {hint}?"));
                return Err((format!("unexpected key '{key}' in '{field}'"), hint));
            }
        }
        Ok(())
    }

    fn finish(&mut self, automatic: bool) -> Result<(), Refusal> {
        let name = self.kind.name();
        if matches!(self.kind, MountType::Bind | MountType::Tmpfs) {
            for (what, given) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if given.is_some() {
                    return Err(plain(format!("{what} not allowed for {} type mounts", quote(name))));
                }
            }
        }
        if automatic {
            self.readonly = !matches!(self.kind, MountType::Cache | MountType::Tmpfs);
        }
        if self.kind == MountType::Secret {
            if !self.from.is_empty() {
                return Err(plain("secret mount should not have a from"));
            }
            if self.sharing.is_some() {
                return Err(plain("secret mount should not define sharing"));
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return Err(plain("invalid secret mount. one of source, target required"));
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return Err(plain("both source and id can't be set"));
            }
        }
        if self.sharing.is_some() && self.kind != MountType::Cache {
            return Err(plain(format!("invalid cache sharing set for {name} mount")));
        }
        Ok(())
    }
}

fn choose<T: Copy>(options: &[(&'static str, T)], value: &str, what: &str) -> Result<T, Refusal> {
    let lower = value.to_lowercase();
    if let Some((_, found)) = options.iter().find(|(name, _)| *name == lower) {
        return Ok(*found);
    }
    let hint = suggest::nearest(value, options.iter().map(|(name, _)| *name))
        .map(|hint| format!("did you mean {hint}?"));
    Err((format!("unsupported {what} {}", quote(value)), hint))
}

/// The truth values of Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Bytes with an optional binary unit: `64m`, `1.5 GiB`.
fn parse_size(text: &str) -> Option<i64> {
    let at = text.rfind(|ch: char| ch.is_ascii_digit() || ch == '.' || ch == ' ')?;
    let number = if text.get(at..)?.starts_with(' ') { text.get(..at)? } else { text.get(..=at)? };
    let unit = text.get(at + 1..)?.to_lowercase();
    let plain =
        number.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'+' | b'-' | b'e' | b'E'));
    let size: f64 = if plain { number.parse().ok()? } else { return None };
    if size < 0.0 {
        return None;
    }
    let power = match unit.as_bytes().first() {
        None => 0,
        Some(b'b') if unit.len() == 1 => 0,
        Some(b'k') => 1,
        Some(b'm') => 2,
        Some(b'g') => 3,
        Some(b't') => 4,
        Some(b'p') => 5,
        Some(_) => return None,
    };
    if power > 0 && !matches!(unit.get(1..), Some("" | "b" | "ib")) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the reference truncates, and saturation keeps it defined"
    )]
    Some((size * 1024_f64.powi(power)) as i64)
}

/// `--device=name[,required]`.
pub(crate) fn device(text: &str) -> Result<Device, Refusal> {
    let mut device = Device { name: String::new(), required: false };
    for field in csv::fields(text).map_err(|cause| plain(format!("failed to parse csv devices: {cause}")))? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                device.required =
                    parse_bool(value).ok_or_else(|| plain(format!("invalid value for required: {value}")))?;
            }
            ("name", Some(value)) if device.name.is_empty() => value.clone_into(&mut device.name),
            ("name", Some(_)) => return Err(plain(format!("device name already set to {}", device.name))),
            _ if device.name.is_empty() => device.name.clone_from(&field),
            (_, None) => return Err(plain(format!("invalid field '{field}' must be a key=value pair"))),
            (key, Some(_)) => {
                let hint =
                    suggest::nearest(key, ["name", "required"]).map(|hint| format!("did you mean {hint}?"));
                return Err((format!("unexpected key '{key}' in '{field}'"), hint));
            }
        }
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64m"), Some(64 << 20));
        assert_eq!(parse_size("1.5 GiB"), Some(3 << 29));
        assert_eq!(parse_size("10b"), Some(10));
        for bad in ["", "abc", "1x", "1bb", "-1", "1mbb"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn devices() {
        let got = device("vendor/class=dev,required").unwrap();
        assert_eq!((got.name.as_str(), got.required), ("vendor/class=dev", true));
        assert!(device("a,b").is_err());
    }
}
