//! `--chmod` (rules O06-O09).

/// A parsed `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// The bits themselves, 07777 at most.
    Octal(u32),
    Symbolic(Vec<Clause>),
}

/// One `who op perms` of a symbolic mode; `u+r-w` are two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// Bits that may change: the classes named, with their set-id bits; all when none is named,
    /// as the umask is taken to be 0.
    who: u32,
    op: Op,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// Bits for all classes, to be narrowed by `who`; `search` is an `X`.
    Bits { bits: u32, search: bool },
    /// The permissions of a class: how far they are shifted (6 for `u`, 3 for `g`, 0 for `o`).
    CopyOf(u32),
}

/// Neither octal up to 07777 nor symbolic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChmodError {
    /// It looks like a number (rule O06).
    #[error("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")]
    Octal { text: String },
    #[error("invalid chmod parameter: '{text}': invalid syntax")]
    Symbolic { text: String },
}

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const EXECUTE: u32 = 0o111;
const CLASSES: u32 = 0o777 | SET_UID | SET_GID;

impl Chmod {
    /// # Errors
    /// [`ChmodError`], worded as BuildKit words it.
    pub fn parse(text: &str) -> Result<Self, ChmodError> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let octal = || ChmodError::Octal { text: text.into() };
            let mode = u32::from_str_radix(text, 8).map_err(|_| octal())?;
            return if mode <= 0o7777 {
                Ok(Self::Octal(mode))
            } else {
                Err(octal())
            };
        }
        let symbolic = || ChmodError::Symbolic { text: text.into() };
        let mut clauses = Vec::new();
        for part in text.split(',') {
            parse_part(part, &mut clauses).ok_or_else(symbolic)?;
        }
        Ok(Self::Symbolic(clauses))
    }

    /// The mode a copied file or directory gets; not for symlinks (rule O09).
    #[must_use]
    pub fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(clauses) => {
                let searchable = directory || mode & EXECUTE != 0;
                clauses
                    .iter()
                    .fold(mode, |now, clause| clause.apply(now, searchable))
            }
        }
    }

    /// The mode of directories that are made on the way: numbers count for them too, without
    /// the set-id and sticky bits (rule C08).
    #[must_use]
    pub fn of_made_directories(&self) -> u32 {
        match self {
            Self::Octal(mode) => mode & 0o777,
            Self::Symbolic(_) => 0o755,
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, searchable: bool) -> u32 {
        let bits = match self.what {
            What::Bits { bits, search } => bits | if search && searchable { EXECUTE } else { 0 },
            What::CopyOf(shift) => {
                let class = (mode >> shift) & 7;
                class << 6 | class << 3 | class
            }
        };
        let bits = bits & self.who;
        match self.op {
            Op::Add => mode | bits,
            Op::Remove => mode & !bits,
            // Copying a class leaves the set-id bits alone; so does naming only `o`.
            Op::Set if matches!(self.what, What::CopyOf(_)) => (mode & !(self.who & 0o777)) | bits,
            Op::Set => (mode & !self.who) | bits,
        }
    }
}

/// `[ugoa]*([+-=][rwxXst]*|[ugo])+`
fn parse_part(part: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let mut rest = part.as_bytes();
    let mut named = 0;
    while let Some((class, tail)) = rest.split_first() {
        named |= match class {
            b'a' => CLASSES,
            b'u' => 0o700 | SET_UID,
            b'g' => 0o070 | SET_GID,
            b'o' => 0o007,
            _ => break,
        };
        rest = tail;
    }
    let mut any = false;
    while let Some((op, tail)) = rest.split_first() {
        any = true;
        let op = match op {
            b'+' => Op::Add,
            b'-' => Op::Remove,
            b'=' => Op::Set,
            _ => return None,
        };
        rest = parse_permissions(tail, named, op, clauses)?;
    }
    any.then_some(())
}

fn parse_permissions<'a>(
    mut rest: &'a [u8],
    named: u32,
    op: Op,
    clauses: &mut Vec<Clause>,
) -> Option<&'a [u8]> {
    let mut who = if named == 0 { CLASSES } else { named };
    let only_others = named != 0 && named & !0o007 == 0;
    if let Some((class @ (b'u' | b'g' | b'o'), tail)) = rest.split_first() {
        let shift = match class {
            b'u' => 6,
            b'g' => 3,
            _ => 0,
        };
        clauses.push(Clause {
            who,
            op,
            what: What::CopyOf(shift),
        });
        // A mixture such as `g=ur` has no meaning in POSIX.
        return tail
            .first()
            .is_none_or(|c| b"+-=".contains(c))
            .then_some(tail);
    }
    let (mut bits, mut search) = (0, false);
    while let Some((permission, tail)) = rest.split_first() {
        match permission {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= EXECUTE,
            b'X' if op == Op::Remove => bits |= EXECUTE,
            b'X' => search = true,
            b's' if only_others => {}
            b's' => bits |= SET_UID | SET_GID,
            b't' if only_others => {}
            b't' => {
                who |= STICKY;
                bits |= STICKY;
            }
            _ => break,
        }
        rest = tail;
    }
    clauses.push(Clause {
        who,
        op,
        what: What::Bits { bits, search },
    });
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o06_octal_or_symbolic() {
        for (text, want) in [
            ("0", 0),
            ("644", 0o644),
            ("00644", 0o644),
            ("07777", 0o7777),
        ] {
            assert_eq!(Chmod::parse(text), Ok(Chmod::Octal(want)), "{text}");
        }
        for text in ["64a", "8", "10000", "0x1ff", "644 ", "99999999999999999999"] {
            let error = Chmod::parse(text).unwrap_err();
            assert_eq!(error, ChmodError::Octal { text: text.into() });
        }
        for text in [
            "",
            "u",
            "foo",
            "u=rwx,",
            "u+q",
            "go",
            "u=rw go=r",
            "rwx",
            "+rw,x",
            "g=ur",
        ] {
            let error = Chmod::parse(text).unwrap_err();
            assert_eq!(error, ChmodError::Symbolic { text: text.into() });
        }
    }

    #[test]
    fn o07_symbolic_modes_are_those_of_chmod() {
        let table = [
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a+x", 0o600, false, 0o711),
            ("+x", 0o644, false, 0o755),
            ("+rwx", 0o000, false, 0o777),
            ("go-r,u+s", 0o644, false, 0o4600),
            ("g=u", 0o600, false, 0o660),
            ("go=u", 0o750, false, 0o777),
            ("o=g-w", 0o674, false, 0o675),
            ("a-w", 0o666, false, 0o444),
            ("a-X", 0o777, false, 0o666),
            ("=", 0o777, false, 0),
            ("=r", 0o4755, false, 0o444),
            ("=r", 0o1755, true, 0o1444),
            ("go=", 0o2755, false, 0o700),
            ("u=rw", 0o4755, false, 0o655),
            ("+t", 0o755, true, 0o1755),
            ("-t", 0o1755, true, 0o755),
            ("o+t", 0o755, true, 0o755),
            ("o+s", 0o755, false, 0o755),
            ("g+s", 0o755, true, 0o2755),
            ("ug+rw,o-rwx", 0o604, false, 0o660),
            ("u+r-w", 0o300, false, 0o500),
            ("+X", 0o644, false, 0o644),
            // `X` looks at the mode as it was, before the other clauses.
            ("a+x,a=rX", 0o644, false, 0o444),
        ];
        for (text, mode, directory, want) in table {
            let got = Chmod::parse(text).unwrap().apply(mode, directory);
            assert_eq!(got, want, "{text} on {mode:o}: {got:o}");
        }
    }

    #[test]
    fn o08_c08_numbers_count_for_everything() {
        let chmod = Chmod::parse("6640").unwrap();
        assert_eq!(chmod.apply(0o755, true), 0o6640);
        assert_eq!(chmod.of_made_directories(), 0o640);
        assert_eq!(Chmod::parse("u=r").unwrap().of_made_directories(), 0o755);
    }
}
