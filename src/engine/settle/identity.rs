//! `/etc/machine-id` (machine-id(5)) and the one of D-Bus: 32 hexadecimal digits that packages
//! make up when they are installed. In an image they identify nothing, as all its containers
//! share them; but programs fail without one, so another takes its place.

use std::fmt::Write as _;
use std::io;

use super::Step;

const DIGITS: usize = 32;
const PATHS: [&[u8]; 2] = [b"etc/machine-id", b"var/lib/dbus/machine-id"];

/// Replaces an id that the step made up by one derived from the step. An id that the image had
/// before, or that the command spells out, stays.
///
/// # Errors
/// When an old id cannot be read.
pub(super) fn settle(content: &mut [u8], step: &Step<'_>) -> io::Result<()> {
    let (id, rest) = content.split_at_mut(DIGITS.min(content.len()));
    let Ok(text) = std::str::from_utf8(id) else {
        return Ok(());
    };
    let is_line = matches!(rest, [] | [b'\n']);
    if !is_line || !is_id(text) || !(has_time(text, step) || is_random(text)) {
        return Ok(());
    }
    let is_spelled = step.args.iter().any(|arg| arg.contains(text));
    for path in PATHS {
        if is_spelled || (step.read)(path)?.starts_with(text.as_bytes()) {
            return Ok(());
        }
    }
    id.copy_from_slice(derived(step).as_bytes());
    Ok(())
}

fn is_id(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == DIGITS && text.bytes().all(is_digit)
}

/// D-Bus ends its ids in the seconds since 1970.
fn has_time(text: &str, step: &Step<'_>) -> bool {
    let Ok(seconds) = i64::from_str_radix(&text[DIGITS - 8..], 16) else {
        return false;
    };
    (step.clock.start.0..=step.clock.end.0).contains(&seconds)
}

/// RFC 9562 version 4, as systemd makes them.
fn is_random(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes[12] == b'4' && matches!(bytes[16], b'8' | b'9' | b'a' | b'b')
}

/// An id of the same form as a random one. It is the same at all paths: programs link and copy
/// one to the other.
fn derived(step: &Step<'_>) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("layercake 1 machine id");
    hasher.update(&step.base);
    for arg in step.args {
        hasher.update(&(arg.len() as u64).to_le_bytes());
        hasher.update(arg.as_bytes());
    }
    let hash = hasher.finalize();
    let mut bytes = [0; DIGITS / 2];
    bytes.copy_from_slice(&hash.as_bytes()[..DIGITS / 2]);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::CLOCK;
    use super::*;
    use store::view::View;

    const RANDOM: &str = "0123456789ab4def8123456789abcdef";

    fn settled(content: &str, command: &str, old: Option<&str>) -> String {
        let mut bytes = content.as_bytes().to_vec();
        let args = ["/bin/sh", "-c", command].map(str::to_owned);
        let read = |path: &[u8]| {
            let old = old.filter(|_| path == b"etc/machine-id");
            Ok(old.unwrap_or_default().as_bytes().to_vec())
        };
        let step = Step {
            clock: CLOCK,
            view: &View::new(Vec::new()),
            read: &read,
            args: &args,
            base: [7; 32],
        };
        settle(&mut bytes, &step).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_id_that_was_made_up_is_replaced_by_one_of_the_same_form() {
        let of_dbus = format!("0123456789abcdef01234567{:08x}", CLOCK.start.0 + 3);
        for made_up in [RANDOM, &of_dbus, &format!("{RANDOM}\n")] {
            let new = settled(made_up, "install", None);
            assert_eq!(new.len(), made_up.len());
            assert!(is_id(&new[..DIGITS]) && is_random(&new), "{new}");
            assert_eq!(new.trim(), settled(RANDOM, "install", None));
            assert_ne!(new.trim(), settled(RANDOM, "another", None));
        }
    }

    #[test]
    fn other_content_stays() {
        let upper = RANDOM.to_uppercase();
        let longer = format!("{RANDOM}0\n");
        for content in [
            "",
            "uninitialized\n",
            "short",
            &upper,
            &longer,
            "äääääääääääääääää",
        ] {
            assert_eq!(settled(content, "install", None), content);
        }
        assert_eq!(
            settled(RANDOM, &format!("echo {RANDOM} > /etc/machine-id"), None),
            RANDOM
        );
        let old = format!("{RANDOM}\n");
        assert_eq!(settled(RANDOM, "cp", Some(&old)), RANDOM);
    }
}
