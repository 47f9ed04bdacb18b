//! Names that look like those of secrets.

const SECRET_WORDS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
const HARMLESS_WORDS: [&str; 3] = ["public", "file", "version"];

/// Whether a `_`-separated word of `name` is one of secrets, and none says that it is not.
pub(super) fn looks_secret(name: &str) -> bool {
    let has = |words: &[&str]| {
        name.split('_')
            .any(|word| words.iter().any(|known| word.eq_ignore_ascii_case(known)))
    };
    has(&SECRET_WORDS) && !has(&HARMLESS_WORDS)
}

#[cfg(test)]
mod tests {
    use super::looks_secret;

    #[test]
    fn secret_names() {
        for name in [
            "API_KEY",
            "key",
            "GITHUB_TOKEN",
            "secret_MESSAGE",
            "AUTH",
            "a_passwd_b",
            "APIKEY",
        ] {
            assert!(looks_secret(name), "{name}");
        }
        for name in [
            "PUBLIC_KEY",
            "TOKEN_FILE",
            "KEYS",
            "MONKEY",
            "AUTHOR",
            "KEY_VERSION",
            "",
            "API-KEY",
        ] {
            assert!(!looks_secret(name), "{name}");
        }
    }
}
