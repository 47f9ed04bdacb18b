//! Finding, reading and parsing the Dockerfile and the ignore file that goes with it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::dockerfile::{Diagnostic, LineRange, Severity, Source};

use graph::lower::LowerError;

use super::context::IgnoreFile;
use crate::failure::{Failure, FailureKind};
use crate::report::Problem;
use crate::request::{BuildRequest, DockerfileSource};

/// Of more errors the first ones are shown.
const MOST_SHOWN: usize = 20;

/// A larger Dockerfile is refused.
const MAX_BYTES: u64 = 64 << 20;

/// The text and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Dockerfile {
    pub(crate) source: Arc<Source>,
    /// `None` for standard input.
    path: Option<PathBuf>,
}

/// Reads the Dockerfile. `given` is the text that the process outside already read from
/// standard input.
pub(crate) fn read(request: &BuildRequest, given: Option<String>) -> Result<Dockerfile, Failure> {
    match &request.dockerfile {
        DockerfileSource::Stdin | DockerfileSource::Url(_) => {
            let text = match given {
                Some(text) => text,
                None if request.dockerfile != DockerfileSource::Stdin => {
                    let message = "a Dockerfile at a URL is only read by a build";
                    return Err(Failure::new(FailureKind::Usage, message));
                }
                None => limited(&mut io::stdin().lock(), Path::new("standard input"))?,
            };
            Ok(Dockerfile {
                source: Arc::new(Source {
                    name: "Dockerfile".into(),
                    text,
                }),
                path: None,
            })
        }
        DockerfileSource::Path(path) => open(path),
        DockerfileSource::Default => {
            let context = request.context.as_deref().unwrap_or(Path::new("."));
            let upper = context.join("Dockerfile");
            let lower = context.join("dockerfile");
            // Rule P31.
            open(if !upper.exists() && lower.exists() {
                &lower
            } else {
                &upper
            })
        }
    }
}

/// Reads a file outside any build; `-` is standard input.
pub(crate) fn read_alone(path: &Path) -> Result<Arc<Source>, Failure> {
    if path.as_os_str() != "-" {
        return Ok(open(path)?.source);
    }
    Ok(Arc::new(Source {
        name: "Dockerfile".to_owned(),
        text: limited(&mut io::stdin().lock(), Path::new("standard input"))?,
    }))
}

fn open(path: &Path) -> Result<Dockerfile, Failure> {
    let fail = |e: io::Error| {
        let message = format!("failed to read dockerfile: open {}: {e}", path.display());
        let failure = Failure::new(FailureKind::Usage, message);
        match e.kind() {
            io::ErrorKind::NotFound => failure.hint("name it with -f PATH"),
            _ => failure,
        }
    };
    let mut file = File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.is_dir() {
        return Err(fail(io::Error::other("it is a directory")));
    }
    let name = path
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let text = limited(&mut file, path)?;
    Ok(Dockerfile {
        source: Arc::new(Source { name, text }),
        path: Some(path.to_path_buf()),
    })
}

fn limited(reader: &mut dyn Read, path: &Path) -> Result<String, Failure> {
    let fail = |what: String| {
        Failure::new(
            FailureKind::Usage,
            format!("failed to read {}: {what}", path.display()),
        )
    };
    let mut bytes = Vec::new();
    reader
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| fail(e.to_string()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fail(format!("it is larger than {MAX_BYTES} bytes")));
    }
    // BuildKit takes any bytes; text in another encoding is shown with replacement characters.
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// The ignore file for the main context (rule I01): `<Dockerfile>.dockerignore` beside the
/// Dockerfile, else `.dockerignore` in the context.
///
/// Only for contexts that are local (rule I10).
pub(crate) fn ignore_file(
    dockerfile: &Dockerfile,
    context: &Path,
) -> Result<Option<IgnoreFile>, Failure> {
    if let Some(path) = &dockerfile.path {
        let mut beside = path.clone().into_os_string();
        beside.push(".dockerignore");
        if let Some(file) = read_ignore(Path::new(&beside))? {
            return Ok(Some(file));
        }
    }
    read_ignore(&context.join(".dockerignore"))
}

/// `None` when there is no such file; a directory of that name is none (as in BuildKit).
pub(crate) fn read_ignore(path: &Path) -> Result<Option<IgnoreFile>, Failure> {
    match File::open(path) {
        Ok(_) if path.is_dir() => Ok(None),
        Ok(mut file) => {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            Ok(Some(IgnoreFile {
                name,
                text: limited(&mut file, path)?,
            }))
        }
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => {
            let message = format!("failed to read {}: {e}", path.display());
            Err(Failure::new(FailureKind::Usage, message))
        }
    }
}

/// All syntax errors as one failure.
pub(crate) fn syntax_failure(source: &Arc<Source>, diagnostics: &[Diagnostic]) -> Option<Failure> {
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error);
    let problems: Vec<Problem> = errors.map(|d| Problem::new(source, d)).collect();
    let [problem] = problems.as_slice() else {
        return (!problems.is_empty()).then(|| several(problems));
    };
    let place = match problem.lines.first {
        0 => String::new(),
        _ => match problem.lines {
            LineRange { first, last } if first == last => format!(" on line {first}"),
            lines => format!(" on lines {lines}"),
        },
    };
    let message = format!("dockerfile parse error{place}: {}", problem.message);
    let mut failure = Failure::new(FailureKind::Dockerfile, message);
    failure.hints.extend(problem.help.clone());
    failure.problems = problems;
    Some(failure)
}

/// What lowering found wrong, as one failure.
pub(crate) fn lower_failure(source: &Arc<Source>, errors: &[LowerError]) -> Failure {
    let placed = |error: &LowerError| {
        let subject = error.subject.as_deref();
        let help = error.help.clone();
        let lines = error.lines?;
        let message = error.message.as_str();
        Some(Problem::at_lines(source, lines, subject, message, help))
    };
    if let [error] = errors {
        let mut failure = Failure::new(FailureKind::Dockerfile, error.message.as_str());
        failure.hints.extend(error.help.clone());
        failure.problems.extend(placed(error));
        return failure;
    }
    several(errors.iter().filter_map(placed).collect())
}

/// Each problem with a message of its own.
fn several(mut problems: Vec<Problem>) -> Failure {
    let name = problems.first().map_or("", |problem| &problem.source.name);
    let mut message = format!("{} errors in {name}", problems.len());
    if problems.len() > MOST_SHOWN {
        message.push_str(&format!(", the first {MOST_SHOWN} are shown"));
        problems.truncate(MOST_SHOWN);
    }
    let mut failure = Failure::new(FailureKind::Dockerfile, message);
    failure.problems = problems;
    failure
}
