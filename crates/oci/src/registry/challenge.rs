//! `WWW-Authenticate` (RFC 9110 §11.6.1) as registries use it (distribution, "Token
//! Authentication Specification").

/// What a registry wants to see before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token, which anyone may ask `realm` for.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
    /// Something this program does not have; the scheme's name.
    Other(String),
}

impl Challenge {
    /// The first Bearer challenge of a header value, else the first of any kind.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let mut all = Vec::new();
        let mut rest = header.trim_start_matches([' ', ',']);
        while !rest.is_empty() {
            let (scheme, after) = token(rest);
            if scheme.is_empty() {
                return all.into_iter().next();
            }
            let (parameters, after) = parameters(after);
            all.push(Self::new(scheme, &parameters));
            rest = after.trim_start_matches([' ', ',']);
        }
        let bearer = all.iter().position(|c| matches!(c, Self::Bearer { .. }));
        all.into_iter().nth(bearer.unwrap_or(0))
    }

    fn new(scheme: &str, parameters: &[(String, String)]) -> Self {
        let get = |name: &str| {
            parameters
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, v)| v.clone())
        };
        match get("realm") {
            Some(realm) if scheme.eq_ignore_ascii_case("bearer") => Self::Bearer {
                realm,
                service: get("service"),
                scope: get("scope"),
            },
            _ => Self::Other(scheme.to_owned()),
        }
    }
}

/// Leading token characters and the rest.
fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// `key=value` pairs, up to what is not one: the next scheme.
fn parameters(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut all = Vec::new();
    loop {
        let start = text.trim_start_matches([' ', ',']);
        let (key, after) = token(start);
        let Some(after) = after.strip_prefix('=').filter(|_| !key.is_empty()) else {
            return (all, start);
        };
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, after) = token(after);
                (value.to_owned(), after)
            }
        };
        all.push((key.to_owned(), value));
        text = after;
    }
}

/// Up to the closing quote, with backslashes taken off.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn challenges_of_registries() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://a.b/token",service="a.b",scope="repository:x/y:pull""#,
                bearer(
                    "https://a.b/token",
                    Some("a.b"),
                    Some("repository:x/y:pull"),
                ),
            ),
            (
                r#"bearer  realm=r , Service="s\"t""#,
                bearer("r", Some("s\"t"), None),
            ),
            (
                r#"Basic realm="x, y", Bearer realm="r""#,
                bearer("r", None, None),
            ),
            (
                r#"Basic realm="x""#,
                Some(Challenge::Other("Basic".to_owned())),
            ),
            ("Negotiate", Some(Challenge::Other("Negotiate".to_owned()))),
            (
                "Negotiate abc==, Bearer realm=r",
                Some(Challenge::Other("Negotiate".to_owned())),
            ),
            ("Bearer", Some(Challenge::Other("Bearer".to_owned()))),
            (r#"Bearer realm="unclosed"#, bearer("unclosed", None, None)),
            ("", None),
            ("\"", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }
}
