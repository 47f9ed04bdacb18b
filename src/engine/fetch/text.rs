//! URLs as they may be shown, and the encodings in them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Without the user name and password that a URL may hold between `//` and `@` (rule D17), and
/// without control characters. The user of an ssh address is no secret, a password is.
pub(super) fn redact(url: &str) -> String {
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    let Some((scheme, rest)) = url.split_once("://") else {
        return clean(url);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let Some((userinfo, host)) = authority.rsplit_once('@') else {
        return clean(url);
    };
    let user = userinfo.split(':').next().unwrap_or_default();
    let shown = match scheme {
        "ssh" | "git" => format!("{user}@"),
        _ => String::new(),
    };
    clean(&format!("{scheme}://{shown}{host}{path}"))
}

/// Text that decodes to something else than UTF-8 stays as it is.
pub(super) fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let escape = match (first, tail) {
            (b'%', [a, b, ..]) => digit(*a).zip(digit(*b)),
            _ => None,
        };
        // Two digits of base 16 are one byte.
        let byte = escape.and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// The value of an `Authorization` header (RFC 7617).
pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::{percent_decode, redact};

    #[test]
    fn escapes() {
        for (text, decoded) in [
            ("a%20b", "a b"),
            ("a%2Fb%2", "a/b%2"),
            ("%zz%", "%zz%"),
            ("%ff", "%ff"),
            ("%+1", "%+1"),
        ] {
            assert_eq!(percent_decode(text), decoded, "{text}");
        }
    }

    #[test]
    fn d17_user_and_password_are_not_shown() {
        for (url, shown) in [
            ("https://e.x/f?q=a@b", "https://e.x/f?q=a@b"),
            ("https://user:pass@e.x/f", "https://e.x/f"),
            (
                "https://token@e.x:8443/r.git#main",
                "https://e.x:8443/r.git#main",
            ),
            ("https://a:p@ss@e.x/f", "https://e.x/f"),
            ("ssh://git:pass@e.x/r", "ssh://git@e.x/r"),
            ("git@e.x:o/r.git", "git@e.x:o/r.git"),
            ("https://e.x/\x1b[31mf", "https://e.x/[31mf"),
        ] {
            assert_eq!(redact(url), shown, "{url}");
        }
    }
}
