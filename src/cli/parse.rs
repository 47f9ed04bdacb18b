//! The small languages inside flags: `key=value` lists, sizes, references.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use graph::facts::Platform;
use graph::lower::platform;

use crate::failure::{Failure, FailureKind};
use crate::request::{NamedContext, Output, SecretSource, SshSource, native_platform};

pub(super) fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

/// `a=b,c=d`; a field without `=` has the value `""`.
fn fields(flag: &str, text: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut fields = BTreeMap::new();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        if fields
            .insert(key.trim().to_lowercase(), value.to_owned())
            .is_some()
        {
            return Err(usage(format!("{flag} {text}: {key} is given twice")));
        }
    }
    Ok(fields)
}

fn no_other_fields(
    flag: &str,
    text: &str,
    fields: BTreeMap<String, String>,
) -> Result<(), Failure> {
    match fields.into_keys().next() {
        Some(key) => Err(usage(format!("{flag} {text}: {key:?} is not implemented"))),
        None => Ok(()),
    }
}

/// `--output type=oci,dest=PATH[,tar=BOOL]`.
pub(super) fn output(text: &str) -> Result<Output, Failure> {
    let mut fields = fields("--output", text)?;
    let kind = fields.remove("type").unwrap_or_default();
    match kind.as_str() {
        "oci" => {}
        "" => {
            let message = format!("--output {text}: type=local is not implemented yet");
            return Err(usage(message).hint("use --output type=oci,dest=PATH"));
        }
        other => {
            let message = format!("--output {text}: type={other} is not implemented");
            return Err(usage(message).hint("use --output type=oci,dest=PATH"));
        }
    }
    let destination = fields.remove("dest").filter(|d| !d.is_empty());
    let destination = destination.ok_or_else(|| usage(format!("--output {text}: no dest=PATH")))?;
    if destination == "-" {
        return Err(usage(
            "--output dest=-: writing the image to stdout is not implemented",
        ));
    }
    let tar = match fields.remove("tar").as_deref() {
        None | Some("true" | "") => true,
        Some("false") => false,
        Some(other) => return Err(usage(format!("--output tar={other}: not true or false"))),
    };
    no_other_fields("--output", text, fields)?;
    Ok(Output::Oci {
        destination: PathBuf::from(destination),
        tar,
    })
}

/// `NAME=VALUE` of `--build-context`.
pub(super) fn named_context(text: &str) -> Result<(String, NamedContext), Failure> {
    let Some((name, value)) = text
        .split_once('=')
        .filter(|(n, v)| !n.is_empty() && !v.is_empty())
    else {
        return Err(usage(format!(
            "--build-context {text}: not of the form NAME=VALUE"
        )));
    };
    let context = if let Some(rest) = value.strip_prefix("oci-layout://") {
        oci_layout(rest)
    } else if let Some(reference) = value.strip_prefix("docker-image://") {
        NamedContext::Image(reference.to_owned())
    } else if let Some(url) = git_context(value) {
        NamedContext::Git(url)
    } else if is_http(value) {
        NamedContext::Http(value.to_owned())
    } else if let Some((scheme, _)) = value.split_once("://") {
        return Err(usage(format!(
            "--build-context {text}: {scheme}:// is not implemented"
        )));
    } else {
        NamedContext::Directory(PathBuf::from(value))
    };
    Ok((name.to_owned(), context))
}

fn oci_layout(text: &str) -> NamedContext {
    if let Some((directory, digest)) = text.split_once('@') {
        let reference = Some(digest.to_owned());
        return NamedContext::OciLayout {
            directory: directory.into(),
            reference,
        };
    }
    // A directory may have a colon in its name.
    let tag = text
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.contains('/') && !tag.is_empty());
    match tag {
        Some((directory, tag)) if !PathBuf::from(text).is_dir() => NamedContext::OciLayout {
            directory: directory.into(),
            reference: Some(tag.to_owned()),
        },
        _ => NamedContext::OciLayout {
            directory: text.into(),
            reference: None,
        },
    }
}

/// `id=NAME[,src=PATH|,env=NAME][,type=file|env]`.
pub(super) fn secret(text: &str) -> Result<(String, SecretSource), Failure> {
    let mut fields = fields("--secret", text)?;
    let id = fields.remove("id").filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| usage(format!("--secret {text}: no id=NAME")))?;
    let path = fields.remove("src").or_else(|| fields.remove("source"));
    let variable = fields.remove("env");
    let kind = fields.remove("type");
    no_other_fields("--secret", text, fields)?;
    let source = match (path, variable, kind.as_deref()) {
        (Some(path), None, None | Some("file")) => SecretSource::File(path.into()),
        (None, Some(name), None | Some("env")) => SecretSource::Environment(name),
        (Some(name), None, Some("env")) => SecretSource::Environment(name),
        // As buildx: the variable of that name if there is one, else the file.
        (None, None, None) if std::env::var_os(&id).is_some() => {
            SecretSource::Environment(id.clone())
        }
        (None, None, None | Some("file")) => SecretSource::File(id.clone().into()),
        (None, None, Some("env")) => SecretSource::Environment(id.clone()),
        _ => {
            return Err(usage(format!(
                "--secret {text}: give one of src=PATH and env=NAME"
            )));
        }
    };
    Ok((id, source))
}

/// The URL of a git repository, if `text` is one: as for `ADD`, and `github.com/…` where there is
/// no such directory.
pub(super) fn git_context(text: &str) -> Option<String> {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let is_git = match path.split_once("://") {
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => true,
            "http" | "https" => rest.contains('/') && rest.ends_with(".git"),
            _ => false,
        },
        None => is_scp_like(path),
    };
    if is_git {
        return Some(text.to_owned());
    }
    let is_github = text.starts_with("github.com/") && !PathBuf::from(text).exists();
    is_github.then(|| format!("https://{text}"))
}

/// Whether it is the URL of a file on an HTTP server; those of repositories are too.
pub(super) fn is_http(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    })
}

/// `user@host:path`.
fn is_scp_like(text: &str) -> bool {
    let name = |text: &str, more: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        !text.is_empty() && text.chars().all(known)
    };
    let parts = text
        .split_once('@')
        .and_then(|(user, rest)| Some((user, rest.split_once(':')?.0)));
    parts.is_some_and(|(user, host)| name(user, "-_") && name(host, "-."))
}

/// `default|ID[=SOCKET|KEY[,KEY]]`. Without a path it is the agent of `SSH_AUTH_SOCK`.
pub(super) fn ssh(text: &str) -> Result<(String, SshSource), Failure> {
    let (id, paths) = text.split_once('=').unwrap_or((text, ""));
    if id.is_empty() {
        let form = "ID[=SOCKET|KEY[,KEY]]";
        return Err(usage(format!("--ssh {text}: not of the form {form}")));
    }
    if paths.is_empty() {
        let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
        let socket = socket.ok_or_else(|| {
            usage(format!("--ssh {text}: SSH_AUTH_SOCK is not set"))
                .hint("start ssh-agent, or give --ssh ID=SOCKET or --ssh ID=KEY")
        })?;
        return Ok((id.to_owned(), SshSource::Agent(socket.into())));
    }
    if paths.starts_with("raw=") {
        return Err(usage(format!(
            "--ssh {text}: raw sockets are not implemented"
        )));
    }
    let mut keys = Vec::new();
    for path in paths.split(',') {
        let failed = |e: &dyn std::fmt::Display| usage(format!("--ssh {text}: {path}: {e}"));
        let path = std::path::absolute(path).map_err(|e| failed(&e))?;
        let metadata = std::fs::metadata(&path).map_err(|e| failed(&e))?;
        if std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) {
            if paths.contains(',') {
                return Err(failed(&"an agent can only be given alone"));
            }
            return Ok((id.to_owned(), SshSource::Agent(path)));
        }
        if !metadata.is_file() {
            return Err(failed(
                &"neither the socket of an agent nor a file with a key",
            ));
        }
        keys.push(path);
    }
    Ok((id.to_owned(), SshSource::Keys(keys)))
}

/// `os/arch[/variant]`, `os` or `arch`, in the one form all spellings share: `linux/arm64/v8` is
/// `linux/arm64`, `linux/arm` is `linux/arm/v7`.
pub(super) fn platform(text: &str) -> Result<Platform, Failure> {
    if text.contains(',') {
        return Err(usage(
            "--platform: several platforms in one build are not implemented",
        ));
    }
    platform::parse(text, &native_platform())
        .map(|platform| platform::normalise(&platform))
        .map_err(|error| usage(format!("--platform {text}: {error}")))
}

/// `64m`, `1g`, `1024`: bytes.
pub(super) fn size(flag: &str, text: &str) -> Result<u64, Failure> {
    let lower = text.trim().to_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(usage(format!("{flag} {text}: not a size"))),
    };
    let number: Option<u64> = digits.trim().parse().ok();
    let bytes = number.and_then(|n| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| usage(format!("{flag} {text}: not a size")))
}

/// `90s`, `10m`, `1h30m`, `500ms`; a number alone is seconds.
pub(super) fn duration(flag: &str, text: &str) -> Result<Duration, Failure> {
    let invalid = || {
        usage(format!(
            "{flag} {text}: not a duration, such as 90s or 1h30m"
        ))
    };
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, after) = rest.split_at(digits.unwrap_or(rest.len()));
        let letters = after.find(|c: char| !c.is_ascii_alphabetic());
        let (unit, after) = after.split_at(letters.unwrap_or(after.len()));
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            "" if number.len() == text.trim().len() => 1.0,
            _ => return Err(invalid()),
        };
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let part = Duration::try_from_secs_f64(number * scale).map_err(|_| invalid())?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = after;
    }
    if total.is_zero() {
        return Err(invalid());
    }
    Ok(total)
}

/// `--memory`: bytes, at least what Docker asks for.
pub(super) fn memory(text: &str) -> Result<u64, Failure> {
    const MIN: u64 = 6 << 20;
    let bytes = size("--memory", text)?;
    if bytes < MIN {
        return Err(usage(format!("--memory {text}: less than 6m, the minimum")));
    }
    Ok(bytes)
}

/// `--cpus`: thousandths of a processor; the kernel takes no less than a hundredth.
pub(super) fn cpus(text: &str) -> Result<u32, Failure> {
    let number: Option<f64> = text.parse().ok();
    let millis = number.map(|n| (n * 1000.0).round());
    match millis.filter(|m| (10.0..=1e9).contains(m)) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in range"
        )]
        Some(millis) => Ok(millis as u32),
        None => Err(usage(format!(
            "--cpus {text}: not a number of processors of at least 0.01"
        ))),
    }
}

/// `NAME:IP` or `NAME=IP`.
pub(super) fn add_host(text: &str) -> Result<(String, String), Failure> {
    let invalid = || usage(format!("--add-host {text}: not of the form NAME:IP"));
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(invalid)?;
    if address == "host-gateway" {
        return Err(usage("--add-host host-gateway is not implemented"));
    }
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() || bare.parse::<std::net::IpAddr>().is_err() {
        return Err(invalid());
    }
    Ok((name.to_owned(), bare.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s19_spellings_of_a_platform() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
        ] {
            assert_eq!(platform(text).unwrap().to_string(), expected, "{text}");
        }
        for text in [
            "",
            "nonsense",
            "linux/",
            "a/b/c/d",
            "linux/amd64,linux/arm64",
        ] {
            assert!(platform(text).is_err(), "{text}");
        }
    }

    #[test]
    fn output_takes_type_oci_and_names_what_it_does_not_take() {
        let dir = Output::Oci {
            destination: "x".into(),
            tar: false,
        };
        assert_eq!(output("type=oci,dest=x,tar=false").ok(), Some(dir));
        let tar = Output::Oci {
            destination: "x".into(),
            tar: true,
        };
        assert_eq!(output("dest=x,type=oci").ok(), Some(tar));
        for (text, names) in [
            ("type=docker,dest=x", "type=docker"),
            ("./out", "type=local"),
            ("type=oci", "no dest"),
            ("type=oci,dest=x,compression=zstd", "compression"),
            ("type=oci,dest=x,tar=maybe", "tar=maybe"),
            ("type=oci,dest=-", "stdout"),
        ] {
            let failure = output(text).expect_err(text);
            assert!(
                failure.message.contains(names),
                "{text}: {}",
                failure.message
            );
        }
    }

    #[test]
    fn g05_named_contexts_by_scheme() {
        let context = |text| named_context(text).ok().map(|(_, c)| c);
        let layout = |dir: &str, reference: Option<&str>| {
            let reference = reference.map(str::to_owned);
            Some(NamedContext::OciLayout {
                directory: dir.into(),
                reference,
            })
        };
        assert_eq!(
            context("a=./d"),
            Some(NamedContext::Directory("./d".into()))
        );
        assert_eq!(context("a=oci-layout:///l"), layout("/l", None));
        assert_eq!(context("a=oci-layout:///l:v1"), layout("/l", Some("v1")));
        assert_eq!(
            context("a=oci-layout://l@sha256:00"),
            layout("l", Some("sha256:00"))
        );
        assert_eq!(
            context("a=docker-image://x:1"),
            Some(NamedContext::Image("x:1".into()))
        );
        assert!(named_context("a").is_err());
        assert_eq!(
            context("a=https://host/x.tar"),
            Some(NamedContext::Http("https://host/x.tar".into()))
        );
        assert!(named_context("a=ftp://host/x.tar").is_err());
    }

    #[test]
    fn durations_and_shares() {
        let millis = |text| duration("--step-timeout", text).map(|d| d.as_millis()).ok();
        for (text, expected) in [
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1500),
            ("250ms", 250),
            ("7", 7000),
        ] {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        for text in [
            "", "0", "0s", "soon", "5d", "m", "1m30", "-1s", "1e400h", "s5",
        ] {
            assert_eq!(millis(text), None, "{text}");
        }
        assert_eq!(cpus("1.5").ok(), Some(1500));
        assert_eq!(cpus("0.01").ok(), Some(10));
        for text in ["0", "-1", "two", "NaN", "inf", "1e9"] {
            assert!(cpus(text).is_err(), "{text}");
        }
        assert_eq!(memory("64m").ok(), Some(64 << 20));
        assert!(memory("5m").is_err());
    }

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("1024", 1024),
            ("64m", 64 << 20),
            ("2GiB", 2 << 30),
            ("1k", 1024),
        ] {
            assert_eq!(size("--shm-size", text).ok(), Some(bytes), "{text}");
        }
        assert!(size("--shm-size", "lots").is_err());
        assert!(size("--shm-size", "99999999999g").is_err());
    }
}
