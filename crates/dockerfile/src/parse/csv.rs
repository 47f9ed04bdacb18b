//! One line of comma-separated values (RFC 4180), as `--mount` and `--device` hold.

/// The fields, double quotes resolved; the error names what is wrong.
pub(super) fn fields(line: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let length = rest.find(',').unwrap_or(rest.len());
                if rest[..length].contains('"') {
                    return Err("bare \" in non-quoted-field");
                }
                (rest[..length].to_owned(), &rest[length..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// The field after its opening quote and what follows the closing one.
fn quoted_field(text: &str) -> Result<(String, &str), &'static str> {
    const UNBALANCED: &str = "extraneous or missing \" in quoted-field";
    let mut field = String::new();
    let mut rest = text;
    loop {
        let at = rest.find('"').ok_or(UNBALANCED)?;
        field.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.as_bytes().first() {
            Some(b'"') => {
                field.push('"');
                rest = &rest[1..];
            }
            None | Some(b',') => return Ok((field, rest)),
            Some(_) => return Err(UNBALANCED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r16_fields() {
        let good: [(&str, &[&str]); 5] = [
            ("a=b,c", &["a=b", "c"]),
            ("\"a,b\",c", &["a,b", "c"]),
            ("\"a\"\"b\"", &["a\"b"]),
            ("", &[""]),
            ("a,", &["a", ""]),
        ];
        for (line, want) in good {
            assert_eq!(fields(line).expect(line), want, "{line}");
        }
        for bad in ["a\"b", "\"a", "\"a\"b"] {
            assert!(fields(bad).is_err(), "{bad}");
        }
    }
}
