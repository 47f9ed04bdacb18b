//! `RUN --mount` (rules R16-R18) and `RUN --device`.

use super::{csv, number};
use crate::instruction::{Device, Mount, MountKind, Sharing};
use crate::suggest::nearest;
use crate::text::{parse_bool, quote};

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];
const KINDS: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARINGS: [&str; 3] = ["shared", "private", "locked"];

/// What is wrong with an option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OptionError {
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl OptionError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }

    fn with_options(message: String, value: &str, options: &[&str]) -> Self {
        let help = match nearest(value, options.iter().copied()) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => format!("known are {}", options.join(", ")),
        };
        Self {
            message,
            help: Some(help),
        }
    }
}

impl Mount {
    /// Reads the option text as written. Fields of a fixed type whose value holds a variable are
    /// left out and set [`Mount::deferred`].
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut reader = Reader::new(text);
        reader.read(&mut |key, value| {
            if key == "from" {
                // A `$` at the very end is tolerated (rule X03).
                return match value.find('$') {
                    Some(at) if at + 1 < value.len() => Err(OptionError {
                        message:
                            "'from' doesn't support variable expansion, define alias stage instead"
                                .to_owned(),
                        help: Some(format!(
                            "add a stage `FROM {value} AS <name>` and write from=<name>"
                        )),
                    }),
                    _ => Ok(Value::Text(value.to_owned())),
                };
            }
            let typed = !matches!(
                key,
                "source" | "src" | "target" | "dst" | "destination" | "id" | "env"
            );
            let waits = typed && value.contains(['$', '\'', '"', '\\']);
            Ok(if waits {
                Value::Later
            } else {
                Value::Text(value.to_owned())
            })
        })?;
        reader.finish()
    }

    /// Reads the option again with every value expanded, and checks what had to wait. The error
    /// of `expand` is the message.
    pub fn expand(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Self, OptionError> {
        let mut reader = Reader::new(&self.text);
        reader.read(&mut |_, value| expand(value).map(Value::Text).map_err(OptionError::new))?;
        reader.finish()
    }
}

/// A value of an option.
enum Value {
    Text(String),
    /// Known only when variables are.
    Later,
}

type Resolve<'r> = dyn FnMut(&str, &str) -> Result<Value, OptionError> + 'r;

struct Reader<'a> {
    text: &'a str,
    mount: Mount,
    /// `type=` waits for a variable.
    kind_waits: bool,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            mount: Mount {
                text: text.to_owned(),
                ..Mount::default()
            },
            kind_waits: false,
        }
    }

    fn read(&mut self, resolve: &mut Resolve<'_>) -> Result<(), OptionError> {
        let fields = csv::fields(self.text).map_err(|problem| {
            OptionError::new(format!(
                "failed to parse csv mounts: parse error: {problem}"
            ))
        })?;
        for field in &fields {
            match field.split_once('=') {
                None => self.bare(field)?,
                Some((key, value)) => {
                    let key = key.to_lowercase();
                    if !KEYS.contains(&key.as_str()) {
                        let message = format!("unexpected key '{key}' in '{field}'");
                        return Err(OptionError::with_options(message, &key, &KEYS));
                    }
                    match resolve(&key, value)? {
                        Value::Text(value) => self.set(&key, value)?,
                        Value::Later => {
                            self.mount.deferred = true;
                            self.kind_waits |= key == "type";
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// A field without `=`.
    fn bare(&mut self, field: &str) -> Result<(), OptionError> {
        match field.to_lowercase().as_str() {
            "readonly" | "ro" => self.mount.read_only = Some(true),
            "readwrite" | "rw" => self.mount.read_only = Some(false),
            "required" => {
                self.only_for(&[MountKind::Secret, MountKind::Ssh], "required")?;
                self.mount.required = Some(true);
            }
            key => {
                let mut error =
                    OptionError::new(format!("invalid field '{field}' must be a key=value pair"));
                let known = KEYS
                    .contains(&key)
                    .then_some(key)
                    .or_else(|| nearest(key, KEYS));
                error.help = known.map(|known| format!("write {known}=<value>"));
                return Err(error);
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), OptionError> {
        let boolean = |value: &str| {
            parse_bool(value)
                .ok_or_else(|| OptionError::new(format!("invalid value for {key}: {value}")))
        };
        let numeric = |value: &str, radix| {
            number::unsigned(value, radix)
                .ok_or_else(|| OptionError::new(format!("invalid value {value} for {key}")))
        };
        let mount = &mut self.mount;
        match key {
            "type" => mount.kind = kind(&value)?,
            "from" => mount.from = Some(value),
            "source" | "src" => mount.source = Some(value),
            "target" | "dst" | "destination" => mount.target = Some(value),
            "readonly" | "ro" => mount.read_only = Some(boolean(&value)?),
            "readwrite" | "rw" => mount.read_only = Some(!boolean(&value)?),
            "required" => {
                let required = boolean(&value);
                self.only_for(&[MountKind::Secret, MountKind::Ssh], key)?;
                self.mount.required = Some(required?);
            }
            "size" => {
                let size = number::bytes(&value);
                self.only_for(&[MountKind::Tmpfs], key)?;
                let invalid = || OptionError::new(format!("invalid value for {key}: {value}"));
                self.mount.size = Some(size.ok_or_else(invalid)?);
            }
            "id" => mount.id = Some(value),
            "sharing" => mount.sharing = Some(sharing(&value)?),
            "mode" => mount.mode = Some(numeric(&value, 8)?),
            "uid" => mount.uid = Some(numeric(&value, 10)?.into()),
            "gid" => mount.gid = Some(numeric(&value, 10)?.into()),
            _ => mount.env = Some(value),
        }
        Ok(())
    }

    /// Keys that only some types have; the type must stand before them.
    fn only_for(&self, kinds: &[MountKind], key: &str) -> Result<(), OptionError> {
        if self.kind_waits || kinds.contains(&self.mount.kind) {
            return Ok(());
        }
        let names: Vec<String> = kinds
            .iter()
            .map(|kind| format!("type={}", name(*kind)))
            .collect();
        Err(OptionError {
            message: format!(
                "unexpected key '{key}' for mount type '{}'",
                name(self.mount.kind)
            ),
            help: Some(format!("{key} needs {} before it", names.join(" or "))),
        })
    }

    /// The rules between fields.
    fn finish(self) -> Result<Mount, OptionError> {
        let mount = self.mount;
        if self.kind_waits {
            return Ok(mount);
        }
        let kind = name(mount.kind);
        if matches!(mount.kind, MountKind::Bind | MountKind::Tmpfs) {
            let owned = [
                ("mode", mount.mode.is_some()),
                ("uid", mount.uid.is_some()),
                ("gid", mount.gid.is_some()),
            ];
            if let Some((key, _)) = owned.into_iter().find(|field| field.1) {
                return Err(OptionError::new(format!(
                    "{key} not allowed for {} type mounts",
                    quote(kind)
                )));
            }
        }
        let given = |field: &Option<String>| field.as_ref().is_some_and(|value| !value.is_empty());
        if mount.kind == MountKind::Secret {
            let problem = if given(&mount.from) {
                Some("secret mount should not have a from")
            } else if mount.sharing.is_some() {
                Some("secret mount should not define sharing")
            } else if !given(&mount.source) && !given(&mount.target) && !given(&mount.id) {
                Some("invalid secret mount. one of source, target required")
            } else if given(&mount.source) && given(&mount.id) {
                Some("both source and id can't be set")
            } else {
                None
            };
            if let Some(problem) = problem {
                return Err(OptionError::new(problem));
            }
        }
        if mount.sharing.is_some() && mount.kind != MountKind::Cache {
            return Err(OptionError {
                message: format!("invalid cache sharing set for {kind} mount"),
                help: Some("sharing is an option of type=cache".to_owned()),
            });
        }
        Ok(mount)
    }
}

fn name(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "bind",
        MountKind::Cache => "cache",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Secret => "secret",
        MountKind::Ssh => "ssh",
    }
}

fn kind(value: &str) -> Result<MountKind, OptionError> {
    match value.to_lowercase().as_str() {
        "bind" => Ok(MountKind::Bind),
        "cache" => Ok(MountKind::Cache),
        "tmpfs" => Ok(MountKind::Tmpfs),
        "secret" => Ok(MountKind::Secret),
        "ssh" => Ok(MountKind::Ssh),
        _ => Err(OptionError::with_options(
            format!("unsupported mount type {}", quote(value)),
            value,
            &KINDS,
        )),
    }
}

fn sharing(value: &str) -> Result<Sharing, OptionError> {
    match value.to_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => Err(OptionError::with_options(
            format!("unsupported sharing value {}", quote(value)),
            value,
            &SHARINGS,
        )),
    }
}

impl Device {
    /// Reads `<name>[,required[=bool]]` or `name=<name>,...`.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let fields = csv::fields(text).map_err(|problem| {
            OptionError::new(format!(
                "failed to parse csv devices: parse error: {problem}"
            ))
        })?;
        let mut device = Self::default();
        for field in fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value)),
                None => (field.to_lowercase(), None),
            };
            match (key.as_str(), value) {
                ("required", None) => device.required = true,
                ("required", Some(value)) => {
                    let invalid = || OptionError::new(format!("invalid value for {key}: {value}"));
                    device.required = parse_bool(value).ok_or_else(invalid)?;
                }
                ("name", Some(_)) if !device.name.is_empty() => {
                    return Err(OptionError::new(format!(
                        "device name already set to {}",
                        device.name
                    )));
                }
                ("name", Some(value)) => device.name = value.to_owned(),
                _ if device.name.is_empty() => device.name = field,
                (_, None) => {
                    return Err(OptionError::new(format!(
                        "invalid field '{field}' must be a key=value pair"
                    )));
                }
                (key, Some(_)) => {
                    let message = format!("unexpected key '{key}' in '{field}'");
                    return Err(OptionError::with_options(
                        message,
                        key,
                        &["name", "required"],
                    ));
                }
            }
        }
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r16_mount_fields() {
        let mount = Mount::parse(
            "type=cache,id=go,dst=/c,sharing=locked,mode=0755,uid=1,gid=2,from=x,source=/s",
        )
        .expect("good");
        assert_eq!(mount.kind, MountKind::Cache);
        assert_eq!(
            (mount.mode, mount.uid, mount.gid),
            (Some(0o755), Some(1), Some(2))
        );
        assert_eq!(mount.sharing, Some(Sharing::Locked));
        assert_eq!(mount.read_only, None);
        assert_eq!(
            Mount::parse("target=/a,rw").expect("good").read_only,
            Some(false)
        );
        assert_eq!(
            Mount::parse("target=/a,rw=false").expect("good").read_only,
            Some(true)
        );
        assert_eq!(
            Mount::parse("type=tmpfs,target=/a,size=1g")
                .expect("good")
                .size,
            Some(1 << 30)
        );
        assert_eq!(
            Mount::parse("type=secret,id=a,required")
                .expect("good")
                .required,
            Some(true)
        );
    }

    #[test]
    fn r17_refused_mounts() {
        let cases = [
            (
                "type=cash",
                "unsupported mount type \"cash\"",
                Some("did you mean cache?"),
            ),
            (
                "type=bind,taget=/x",
                "unexpected key 'taget' in 'taget=/x'",
                Some("did you mean target?"),
            ),
            (
                "type=cache,target=/x,sharing=lock",
                "unsupported sharing value \"lock\"",
                Some("did you mean locked?"),
            ),
            (
                "target",
                "invalid field 'target' must be a key=value pair",
                Some("write target=<value>"),
            ),
            (
                "required,type=secret,id=a",
                "unexpected key 'required' for mount type 'bind'",
                None,
            ),
            (
                "type=cache,size=5",
                "unexpected key 'size' for mount type 'cache'",
                None,
            ),
            (
                "type=tmpfs,target=/a,size=x",
                "invalid value for size: x",
                None,
            ),
            (
                "type=tmpfs,target=/a,mode=700",
                "mode not allowed for \"tmpfs\" type mounts",
                None,
            ),
            (
                "type=cache,target=/a,mode=9",
                "invalid value 9 for mode",
                None,
            ),
            (
                "type=cache,target=/a,uid=-1",
                "invalid value -1 for uid",
                None,
            ),
            (
                "type=secret",
                "invalid secret mount. one of source, target required",
                None,
            ),
            (
                "type=secret,id=a,source=b",
                "both source and id can't be set",
                None,
            ),
            (
                "type=secret,id=a,from=b",
                "secret mount should not have a from",
                None,
            ),
            (
                "type=ssh,sharing=shared",
                "invalid cache sharing set for ssh mount",
                None,
            ),
            ("target=/a,ro=x", "invalid value for ro: x", None),
        ];
        for (text, message, help) in cases {
            let error = Mount::parse(text).expect_err(text);
            assert_eq!(error.message, message, "{text}");
            if help.is_some() {
                assert_eq!(error.help.as_deref(), help, "{text}");
            }
        }
    }

    #[test]
    fn x03_from_takes_no_variable_and_other_values_wait() {
        assert!(Mount::parse("from=$x,target=/a").is_err());
        assert!(Mount::parse("from=x$,target=/a").is_ok());
        let mount = Mount::parse("type=$T,target=/a/$B,size=5").expect("waits");
        assert!(mount.deferred);
        assert_eq!(mount.target.as_deref(), Some("/a/$B"));
        let mut expand = |value: &str| Ok(value.replace("$T", "tmpfs").replace("$B", "b"));
        let mount = mount.expand(&mut expand).expect("good");
        assert_eq!(
            (mount.kind, mount.size, mount.target.as_deref()),
            (MountKind::Tmpfs, Some(5), Some("/a/b"))
        );
        assert!(!mount.deferred);
        let mount = Mount::parse("type=$T,target=/a").expect("waits");
        assert!(mount.expand(&mut |_| Ok("zip".to_owned())).is_err());
    }

    #[test]
    fn devices() {
        let device = |text: &str| Device::parse(text).map(|device| (device.name, device.required));
        assert_eq!(
            device("vendor1.com/device=foo,required"),
            Ok(("vendor1.com/device=foo".to_owned(), true))
        );
        assert_eq!(
            device("name=a/b=c,required=false"),
            Ok(("a/b=c".to_owned(), false))
        );
        assert_eq!(
            device("a/b=c,name=d").expect_err("twice").message,
            "device name already set to a/b=c"
        );
        assert_eq!(
            device("a/b=c,requird=1").expect_err("key").help.as_deref(),
            Some("did you mean required?")
        );
    }
}
