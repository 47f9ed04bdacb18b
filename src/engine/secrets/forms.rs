//! The forms in which a secret shows up in texts.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Lines of a secret shorter than this are too common to stand for it.
const LINE_MIN: usize = 8;
/// Where `base64` and PEM break lines.
const WRAPS: [usize; 2] = [76, 64];

/// The secret as a whole: as it is, without the newline at its end, in base64 and URL-encoded.
pub(super) fn whole(secret: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut forms = BTreeSet::new();
    for body in [secret, secret.trim_ascii_end()] {
        forms.insert(body.to_vec());
        base64_forms(body, &mut forms);
        url_forms(body, &mut forms);
    }
    forms
}

/// Also what programs print of it: single lines, its base64 in lines, the inside of a JSON string.
pub(super) fn printed(secret: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut forms = whole(secret);
    let lines = secret.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    forms.extend(lines.filter(|l| l.len() >= LINE_MIN).map(<[u8]>::to_vec));
    for body in [secret, secret.trim_ascii_end()] {
        for wrap in WRAPS {
            let encoded = STANDARD_NO_PAD.encode(body);
            let pieces = encoded.as_bytes().chunks(wrap);
            forms.extend(pieces.filter(|p| p.len() >= LINE_MIN).map(<[u8]>::to_vec));
        }
        if let Ok(text) = std::str::from_utf8(body)
            && let Ok(json) = serde_json::to_string(text)
        {
            forms.insert(json.as_bytes()[1..json.len() - 1].to_vec());
        }
    }
    forms
}

/// A secret in the middle of something encoded begins at one of three positions of a group of
/// three bytes. Characters that also depend on its neighbours are not part of the form.
fn base64_forms(secret: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    for before in 0..3_usize {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(secret);
        let first = (before * 8).div_ceil(6);
        let last = bytes.len() * 8 / 6;
        for encoded in [
            STANDARD_NO_PAD.encode(&bytes),
            URL_SAFE_NO_PAD.encode(&bytes),
        ] {
            if let Some(form) = encoded.as_bytes().get(first..last) {
                forms.insert(form.to_vec());
            }
        }
    }
}

/// Programs differ in what they leave as it is, and in the case of digits.
fn url_forms(secret: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    for safe in ["-._~", "-._~/", "-_.!~*'()", "-_."] {
        for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
            let escaped = url_encode(secret, safe.as_bytes(), digits);
            // In forms of web pages a space is a plus.
            let form = String::from_utf8_lossy(&escaped).replace("%20", "+");
            forms.insert(form.into_bytes());
            forms.insert(escaped);
        }
    }
}

fn url_encode(bytes: &[u8], safe: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || safe.contains(&byte) {
            encoded.push(byte);
        } else {
            let digit = |value: u8| digits[usize::from(value)];
            encoded.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(forms: &BTreeSet<Vec<u8>>, text: &[u8]) -> bool {
        forms
            .iter()
            .any(|f| f.len() >= 4 && text.windows(f.len()).any(|w| w == f.as_slice()))
    }

    #[test]
    fn base64_is_known_wherever_the_secret_stands_in_it() {
        let forms = whole(b"s3cr3t?>value");
        for before in ["", "u", "us", "use", "user:"] {
            for after in ["", "\n", "\nx", "xyz"] {
                let text = format!("{before}s3cr3t?>value{after}");
                for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    assert!(holds(&forms, encoded.as_bytes()), "{text:?}");
                }
            }
        }
        let other = STANDARD_NO_PAD.encode("s3cr3t?>vblue");
        assert!(!holds(&forms, other.as_bytes()));
    }

    #[test]
    fn url_encodings_of_common_programs() {
        let forms = whole(b"p@ss w/rd!");
        for text in [
            "p%40ss%20w%2Frd%21", // RFC 3986
            "p%40ss%20w%2frd%21",
            "p%40ss%20w/rd%21", // Python's quote
            "p%40ss%20w%2Frd!", // encodeURIComponent
            "p%40ss+w%2Frd%21", // forms
        ] {
            assert!(holds(&forms, text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn printed_lines_and_wrapped_base64_are_known() {
        let key: String = (0..40)
            .map(|i| format!("line-{i:04}-of-the-key\n"))
            .collect();
        let forms = printed(key.as_bytes());
        assert!(holds(&forms, b"> line-0013-of-the-key\r"));
        assert!(!holds(&whole(key.as_bytes()), b"> line-0013-of-the-key\r"));
        let wrapped = STANDARD_NO_PAD.encode(&key);
        for line in wrapped.as_bytes().chunks(76).take(8) {
            assert!(holds(&forms, line));
        }
        assert!(holds(&printed(b"a\"b\nc d e"), br#"{"k":"a\"b\nc d e"}"#));
    }
}
