//! What `--chmod` accepts (rules O06, O07). Applying a mode is the engine's work.

use super::error::LowerError;

const LARGEST_MODE: u32 = 0o7777;

/// Checks an octal or symbolic mode.
///
/// # Errors
/// When the text is neither, or the octal number is larger than 07777.
pub(crate) fn validate(mode: &str) -> Result<(), LowerError> {
    let octal = || {
        LowerError::value(format!(
            "invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777"
        ))
        .help("write three or four digits from 0 to 7 (0755), or clauses (u=rwX,go=rX)")
        .about(mode)
    };
    if mode.starts_with(|c: char| c.is_ascii_digit()) {
        let valid = u32::from_str_radix(mode, 8).is_ok_and(|bits| bits <= LARGEST_MODE);
        return if valid { Ok(()) } else { Err(octal()) };
    }
    if mode.split(',').all(is_clause) {
        return Ok(());
    }
    Err(
        LowerError::value(format!("invalid chmod parameter: '{mode}': invalid syntax"))
            .help("use an octal mode (755) or symbolic clauses (u=rwX,go=rX)")
            .about(mode),
    )
}

/// `[ugoa…][+-=][rwxXst…|ugo]…`, with one operator at least.
fn is_clause(clause: &str) -> bool {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    actions.starts_with(['+', '-', '=']) && actions.chars().all(|c| "+-=rwxXstugo".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o06_octal_modes() {
        for mode in ["0", "644", "0755", "7777", "000644"] {
            assert!(validate(mode).is_ok(), "{mode}");
        }
        for mode in ["64a", "10000", "888"] {
            let message = validate(mode).unwrap_err().message;
            assert!(message.contains("it should be octal string"), "{message}");
        }
    }

    #[test]
    fn o07_symbolic_modes() {
        for mode in [
            "u=rwX,go=rX",
            "go=u",
            "+x",
            "a-w",
            "u+s,o+t",
            "=",
            "u+r-w",
            "go=",
        ] {
            assert!(validate(mode).is_ok(), "{mode}");
        }
        for mode in ["u", "foo", "u=rwy", "u=r,", ",", "-1"] {
            assert!(validate(mode).is_err(), "{mode}");
        }
    }
}
