//! `WWW-Authenticate` (RFC 9110 section 11.6.1): several headers, several challenges in each.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use http_auth::parser::ChallengeParser;

/// Challenges looked at in one answer.
const MAX_CHALLENGES: usize = 16;

/// One way in that a registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from the token server `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    /// Something that this client does not speak.
    Other,
}

/// The challenges of an answer; what cannot be parsed is left out.
pub(crate) fn parse(headers: &HeaderMap) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()) {
        for challenge in ChallengeParser::new(value).take(MAX_CHALLENGES) {
            let Ok(challenge) = challenge else { break };
            let param = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            challenges.push(if challenge.scheme.eq_ignore_ascii_case("basic") {
                Challenge::Basic
            } else if challenge.scheme.eq_ignore_ascii_case("bearer") {
                match param("realm") {
                    Some(realm) => {
                        Challenge::Bearer { realm, service: param("service"), scope: param("scope") }
                    }
                    None => Challenge::Other,
                }
            } else {
                Challenge::Other
            });
        }
    }
    challenges.truncate(MAX_CHALLENGES);
    challenges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        parse(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn what_registries_send() {
        assert_eq!(of(&["Basic realm=\"Registry\""]), [Challenge::Basic]);
        assert_eq!(
            of(&[
                "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a/b:pull,push\""
            ]),
            [bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:a/b:pull,push")
            )]
        );
        assert_eq!(
            of(&["bearer Realm=\"https://a/t\", error=\"insufficient_scope\""]),
            [bearer("https://a/t", None, None)]
        );
    }

    #[test]
    fn two_in_one_header_and_in_two() {
        let both = [Challenge::Basic, bearer("https://a/t", None, None)];
        assert_eq!(of(&["Basic realm=\"x\", Bearer realm=\"https://a/t\""]), both);
        assert_eq!(of(&["Basic realm=\"x\"", "Bearer realm=\"https://a/t\""]), both);
    }

    #[test]
    fn escapes_and_garbage() {
        assert_eq!(of(&["Bearer realm=\"https://a/\\\"t\""]), [bearer("https://a/\"t", None, None)]);
        assert_eq!(of(&["Negotiate"]), [Challenge::Other]);
        assert_eq!(of(&["Bearer"]), [Challenge::Other]);
        assert_eq!(of(&["=,=,="]), []);
    }
}
