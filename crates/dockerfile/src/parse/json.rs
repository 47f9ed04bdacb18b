//! JSON as far as the exec form needs it: is a text an array, and are all elements strings
//! (rules P13, P14)?
//!
//! Follows Go's decoder where decoders differ: a lone surrogate becomes U+FFFD, nesting may be
//! 10,000 deep, and a number out of the range of a double makes the text invalid.

/// What a text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Array {
    Strings(Vec<String>),
    /// A valid array with an element that is not a string.
    Mixed,
    /// Not an array, or not valid.
    Invalid,
}

const MAX_DEPTH: usize = 10_000;

pub(super) fn parse_array(text: &str) -> Array {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Array::Invalid;
    }
    let mut reader = Reader {
        bytes: text.as_bytes(),
        text,
        position: 0,
    };
    match reader.array() {
        Some(elements) => elements
            .into_iter()
            .collect::<Option<Vec<String>>>()
            .map_or(Array::Mixed, Array::Strings),
        None => Array::Invalid,
    }
}

/// The top-level member `key` of a JSON object when it is a string.
pub(super) fn object_member(text: &str, key: &str) -> Option<String> {
    let mut reader = Reader {
        bytes: text.as_bytes(),
        text,
        position: 0,
    };
    reader.blanks();
    reader.take(b'{')?;
    let mut found = None;
    reader.blanks();
    if reader.take(b'}').is_none() {
        loop {
            reader.blanks();
            let name = reader.string()?;
            reader.blanks();
            reader.take(b':')?;
            let value = reader.value()?;
            if name == key {
                found = value;
            }
            if reader.take(b',').is_none() {
                reader.take(b'}')?;
                break;
            }
        }
    }
    reader.end()?;
    found
}

struct Reader<'a> {
    bytes: &'a [u8],
    text: &'a str,
    position: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.position += 1)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.position += 1;
        }
    }

    fn end(&mut self) -> Option<()> {
        self.blanks();
        self.peek().is_none().then_some(())
    }

    /// The whole text as an array; elements that are not strings are `None`.
    fn array(&mut self) -> Option<Vec<Option<String>>> {
        let mut elements = Vec::new();
        self.take(b'[')?;
        self.blanks();
        if self.take(b']').is_none() {
            loop {
                elements.push(self.value()?);
                if self.take(b',').is_none() {
                    self.take(b']')?;
                    break;
                }
            }
        }
        self.end()?;
        Some(elements)
    }

    /// One value with the blanks around it: the text of a string, `Some(None)` for anything else.
    fn value(&mut self) -> Option<Option<String>> {
        self.blanks();
        let value = match self.peek()? {
            b'"' => Some(self.string()?),
            b'[' | b'{' => {
                self.nested()?;
                None
            }
            _ => {
                self.scalar()?;
                None
            }
        };
        self.blanks();
        Some(value)
    }

    /// Skips an array or object; a stack instead of recursion, so that no input overflows.
    fn nested(&mut self) -> Option<()> {
        let mut open: Vec<u8> = Vec::new();
        let mut after_value = false;
        loop {
            self.blanks();
            let byte = self.peek()?;
            if after_value {
                self.position += 1;
                match (byte, open.last().copied()) {
                    (b',', Some(b'[')) => after_value = false,
                    (b',', Some(b'{')) => {
                        self.member_name()?;
                        after_value = false;
                    }
                    (b']', Some(b'[')) | (b'}', Some(b'{')) => {
                        open.pop();
                    }
                    _ => return None,
                }
            } else {
                match byte {
                    b'[' | b'{' => {
                        self.position += 1;
                        open.push(byte);
                        // The outermost array around this value counts too.
                        if open.len() >= MAX_DEPTH {
                            return None;
                        }
                        after_value = self.empty_or_first_name(byte)?;
                        if after_value {
                            open.pop();
                        }
                    }
                    b'"' => {
                        self.string()?;
                        after_value = true;
                    }
                    _ => {
                        self.scalar()?;
                        after_value = true;
                    }
                }
            }
            if open.is_empty() {
                return Some(());
            }
        }
    }

    /// After an opening bracket: true when it closes at once; else an object's first name is read.
    fn empty_or_first_name(&mut self, bracket: u8) -> Option<bool> {
        self.blanks();
        let closing = if bracket == b'[' { b']' } else { b'}' };
        if self.take(closing).is_some() {
            return Some(true);
        }
        if bracket == b'{' {
            self.member_name()?;
        }
        Some(false)
    }

    fn member_name(&mut self) -> Option<()> {
        self.blanks();
        self.string()?;
        self.blanks();
        self.take(b':')
    }

    fn scalar(&mut self) -> Option<()> {
        let rest = &self.text[self.position..];
        if let Some(word) = ["true", "false", "null"]
            .into_iter()
            .find(|word| rest.starts_with(word))
        {
            self.position += word.len();
            return Some(());
        }
        self.number()
    }

    fn number(&mut self) -> Option<()> {
        let start = self.position;
        let _sign = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.position += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.position += 1;
            }
            self.digits()?;
        }
        let value: f64 = self.text[start..self.position].parse().ok()?;
        value.is_finite().then_some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.position;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.position += 1;
        }
        (self.position > start).then_some(())
    }

    fn string(&mut self) -> Option<String> {
        self.take(b'"')?;
        let mut result = String::new();
        loop {
            let rest = &self.text[self.position..];
            let length = rest.find(|c: char| c == '"' || c == '\\' || c < ' ')?;
            result.push_str(&rest[..length]);
            self.position += length + 1;
            match rest.as_bytes()[length] {
                b'"' => return Some(result),
                b'\\' => result.push(self.escaped()?),
                _ => return None,
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.position += 1;
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.unicode()?,
            _ => return None,
        })
    }

    fn unicode(&mut self) -> Option<char> {
        let first = self.hex()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.position..].starts_with("\\u") {
            let before = self.position;
            self.position += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                return char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00));
            }
            self.position = before;
        }
        Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.position..self.position + 4)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.position += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p13_p14_arrays_of_strings_and_what_is_none() {
        let strings =
            |elements: &[&str]| Array::Strings(elements.iter().map(ToString::to_string).collect());
        let cases = [
            ("[]", strings(&[])),
            (" [ \"a\" , \"b\" ] ", strings(&["a", "b"])),
            (r#"["\u00e9\n\"\/\ud83d\ude00"]"#, strings(&["é\n\"/😀"])),
            (r#"["\ud800x"]"#, strings(&["\u{fffd}x"])),
            (r#"["a", 5]"#, Array::Mixed),
            (
                r#"["a", ["b"], {"c": [null, true, -1.5e3]}, {}, []]"#,
                Array::Mixed,
            ),
            ("[null]", Array::Mixed),
            (r#"["a",]"#, Array::Invalid),
            (r#"["a"] x"#, Array::Invalid),
            (r#"['a']"#, Array::Invalid),
            (r#"["a]"#, Array::Invalid),
            ("[\"a\tb\"]", Array::Invalid),
            (r#"["\x"]"#, Array::Invalid),
            ("[01]", Array::Invalid),
            ("[1e999]", Array::Invalid),
            ("[{\"a\" 1}]", Array::Invalid),
            ("[1 2]", Array::Invalid),
            ("[", Array::Invalid),
            ("a", Array::Invalid),
            ("", Array::Invalid),
        ];
        for (text, want) in cases {
            assert_eq!(parse_array(text), want, "{text}");
        }
    }

    #[test]
    fn p13_deep_nesting_neither_overflows_nor_passes_the_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(parse_array(&nested(10_000)), Array::Mixed);
        assert_eq!(parse_array(&nested(10_001)), Array::Invalid);
        assert_eq!(parse_array(&"[".repeat(1_000_000)), Array::Invalid);
    }

    #[test]
    fn p04_object_members() {
        assert_eq!(
            object_member(r#" {"a": [1], "syntax": "x/y:1"} "#, "syntax").as_deref(),
            Some("x/y:1")
        );
        assert_eq!(object_member(r#"{"syntax": 5}"#, "syntax"), None);
        assert_eq!(object_member(r#"{"syntax": "a"} x"#, "syntax"), None);
        assert_eq!(object_member("{}", "syntax"), None);
    }
}
