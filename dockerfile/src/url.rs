//! Which texts are URLs: those that Go's `net/url` parses. BuildKit takes the others for paths, or for files without a name.

use std::net::Ipv6Addr;

/// Whether Go parses `scheme://authority path ?query #fragment`, put together from these parts.
pub(crate) fn is_valid(scheme: &str, authority: &str, path: &str, query: &str, fragment: &str) -> bool {
    let control = |text: &str| text.bytes().any(|byte| byte < 0x20 || byte == 0x7f);
    ![authority, path, query].into_iter().any(control)
        && is_authority(scheme, authority)
        && is_escaped(path)
        && is_escaped(fragment)
}

/// The parts of a URL that Go parses: authority, path as written.
pub(crate) fn parse(url: &str) -> Option<(&str, &str)> {
    let (base, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (address, query) = base.split_once('?').unwrap_or((base, ""));
    let (scheme, rest) = address.split_once("://")?;
    let (authority, path) = split(rest);
    is_valid(&scheme.to_lowercase(), authority, path, query, fragment).then_some((authority, path))
}

/// Authority and path of what stands behind `://`.
pub(crate) fn split(rest: &str) -> (&str, &str) {
    rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""))
}

fn is_authority(scheme: &str, authority: &str) -> bool {
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let in_user = |ch: char| ch.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(ch);
    user.is_none_or(|user| user.chars().all(in_user) && is_escaped(user)) && is_host(scheme, host)
}

fn is_host(scheme: &str, host: &str) -> bool {
    match host.rfind('[') {
        None => {}
        Some(0) => {
            let Some((inner, port)) = host.get(1..).and_then(|tail| tail.rsplit_once(']')) else {
                return false;
            };
            let (address, zone) = match inner.split_once("%25") {
                Some((address, zone)) => (address, Some(zone)),
                None => (inner, None),
            };
            return is_port(port)
                && address.parse::<Ipv6Addr>().is_ok()
                && zone.is_none_or(|zone| !zone.is_empty() && is_escaped(zone));
        }
        Some(_) => return false,
    }
    let strict = matches!(scheme, "http" | "https");
    let colon = if strict { host.find(':') } else { host.rfind(':') };
    let port = colon.and_then(|at| host.get(at..)).unwrap_or("");
    is_port(port) && host.bytes().all(in_host) && is_host_escaped(host)
}

const fn in_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || !byte.is_ascii()
        || matches!(
            byte,
            b'-' | b'_'
                | b'.'
                | b'~'
                | b'!'
                | b'"'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'['
                | b']'
                | b'<'
                | b'>'
                | b'%'
        )
}

fn is_port(port: &str) -> bool {
    port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether two hexadecimal digits stand behind every percent sign.
fn is_escaped(text: &str) -> bool {
    escapes(text).all(|escape| escape.is_some())
}

/// In a host only bytes that are not ASCII may be escaped, and the percent sign.
fn is_host_escaped(text: &str) -> bool {
    escapes(text).all(|escape| escape.is_some_and(|byte| byte >= 0x80 || byte == b'%'))
}

fn escapes(text: &str) -> impl Iterator<Item = Option<u8>> {
    text.match_indices('%').map(|(at, _)| {
        let digits =
            text.get(at + 1..at + 3).filter(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        u8::from_str_radix(digits, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_parses_these_and_not_those() {
        for url in [
            "https://h/a.git#b:c",
            "http://u:p@h:80/a%20b?x=%zz",
            "https://[fe80::1%25en0]:1/x",
            "ssh://a:b:1/x",
            "https://\u{e9}.x/",
            "https:///a",
            "https://h<>/a",
        ] {
            assert!(parse(url).is_some(), "{url}");
        }
        for url in [
            "https://h.[x/a",
            "https://h x/a",
            "https://h/%zz",
            "https://h/a#%z",
            "https://h:x/a",
            "https://a:b:1/x",
            "https://u^@h/",
            "https://[1.2.3.4]/",
            "https://[::1/",
            "https://h%20/",
            "https://h/\u{1}",
            "https://h{/",
        ] {
            assert!(parse(url).is_none(), "{url}");
        }
    }
}
