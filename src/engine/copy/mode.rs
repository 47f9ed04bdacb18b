//! `--chmod` (rules O06-O09).

/// A parsed `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// The bits themselves, 07777 at most.
    Octal(u32),
    /// One after another.
    Symbolic(Vec<Change>),
}

/// A part of a symbolic mode; `u=r-w` is three of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Add(u32),
    Remove(u32),
    /// `X`: added to directories, and to files that some class could execute at first.
    AddSearch(u32),
    /// `g=u` and the like.
    Copy(ClassCopy),
}

/// The permissions of one class are added to, taken from or put in place of those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassCopy {
    /// How far those of the class copied from are shifted: 6 for `u`, 3 for `g`, 0 for `o`.
    from: u32,
    /// All bits of the classes copied to.
    to: u32,
    op: Op,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Set,
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
        let mut changes = Vec::new();
        for part in text.split(',') {
            parse_part(part, &mut changes).ok_or_else(symbolic)?;
        }
        Ok(Self::Symbolic(changes))
    }

    /// The mode a copied file or directory gets; not for symlinks (rule O09).
    #[must_use]
    pub fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(changes) => {
                let searchable = directory || mode & EXECUTE != 0;
                changes
                    .iter()
                    .fold(mode, |now, change| change.apply(now, searchable))
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

impl Change {
    fn apply(self, mode: u32, searchable: bool) -> u32 {
        match self {
            Self::Add(bits) => mode | bits,
            Self::Remove(bits) => mode & !bits,
            Self::AddSearch(bits) if searchable => mode | bits,
            Self::AddSearch(_) => mode,
            Self::Copy(ClassCopy { from, to, op }) => {
                let class = (mode >> from) & 7;
                let bits = (class << 6 | class << 3 | class) & to;
                match op {
                    Op::Add => mode | bits,
                    Op::Remove => mode & !bits,
                    Op::Set => mode & !to | bits,
                }
            }
        }
    }
}

/// `[ugoa]*([+-=][rwxXstugo]*)+`, meaning what it means to BSD's `setmode`, which BuildKit follows
/// to the letter: `g=ur` is `g=u,g=r`, and with nobody named `t` narrows the clause to the sticky
/// bit.
fn parse_part(part: &str, changes: &mut Vec<Change>) -> Option<()> {
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
        let mut clause = Clause::new(op, named);
        rest = clause.parse(tail, changes);
    }
    any.then_some(())
}

/// An operator and what follows it.
struct Clause {
    op: Op,
    /// Bits of the classes named; 0 when none is.
    who: u32,
    bits: u32,
    search: u32,
    /// An `=` has cleared what it replaces.
    cleared: bool,
}

impl Clause {
    const fn new(op: Op, who: u32) -> Self {
        Self {
            op,
            who,
            bits: 0,
            search: 0,
            cleared: false,
        }
    }

    /// Returns what does not belong to the clause.
    fn parse<'a>(&mut self, mut rest: &'a [u8], changes: &mut Vec<Change>) -> &'a [u8] {
        while let Some((permission, tail)) = rest.split_first() {
            // The set-id and sticky bits are none of the others.
            let special = self.who == 0 || self.who & !0o007 != 0;
            match permission {
                b'r' => self.bits |= 0o444,
                b'w' => self.bits |= 0o222,
                b'X' if self.op != Op::Remove => self.search = EXECUTE,
                b'x' | b'X' => self.bits |= EXECUTE,
                b's' if special => self.bits |= SET_UID | SET_GID,
                b't' if special => {
                    self.who |= STICKY;
                    self.bits |= STICKY;
                }
                b's' | b't' => {}
                b'u' => self.copy(6, changes),
                b'g' => self.copy(3, changes),
                b'o' => self.copy(0, changes),
                _ => break,
            }
            rest = tail;
        }
        if self.bits != 0 || self.op == Op::Set && !self.cleared {
            self.flush_bits(changes);
        }
        self.flush_search(changes);
        rest
    }

    /// With nobody named all classes are meant; the sticky bit is not theirs.
    const fn narrow(&self, bits: u32) -> u32 {
        if self.who == 0 { bits } else { bits & self.who }
    }

    fn flush_bits(&mut self, changes: &mut Vec<Change>) {
        if self.op == Op::Set {
            self.cleared = true;
            let all = if self.who == 0 { CLASSES } else { self.who };
            changes.push(Change::Remove(all));
        }
        let bits = std::mem::take(&mut self.bits);
        let bits = self.narrow(bits);
        changes.push(match self.op {
            Op::Remove => Change::Remove(bits),
            Op::Add | Op::Set => Change::Add(bits),
        });
    }

    fn flush_search(&mut self, changes: &mut Vec<Change>) {
        let bits = std::mem::take(&mut self.search);
        let bits = self.narrow(bits);
        if bits != 0 {
            changes.push(Change::AddSearch(bits));
        }
    }

    fn copy(&mut self, from: u32, changes: &mut Vec<Change>) {
        if self.bits != 0 {
            self.flush_bits(changes);
        }
        self.cleared = true;
        self.flush_search(changes);
        let to = if self.who == 0 {
            0o777
        } else {
            self.who & 0o777
        };
        let op = self.op;
        changes.push(Change::Copy(ClassCopy { from, to, op }));
    }
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
            ("g=ur", 0o624, false, 0o644),
            ("g=ru", 0o704, false, 0o774),
            ("g+uo", 0o604, false, 0o664),
            ("go-u", 0o755, false, 0o700),
            ("u=g,g=u", 0o640, false, 0o440),
            ("+rt", 0o600, true, 0o1600),
            ("u+rt", 0o200, true, 0o1600),
            ("a=X", 0o644, false, 0),
            ("-X", 0o755, false, 0o644),
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
