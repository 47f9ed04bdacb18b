//! `COPY` and `ADD` (rules C01-C04, C32, C35, C36, O06, O10, D10-D18, M06).

use dockerfile::instruction as ast;

use super::error::LowerError;
use super::expand::Words;
use super::remote::{self, GitOptions};
use super::stage::{Scope, SourceTree, lines, step_text};
use super::{chmod, history, path};
use crate::op::{Copy, CopySource, Git, Http, MAIN_CONTEXT, NodeId, Op};
use crate::plan::Meta;

/// An instruction with its words expanded.
struct Expanded {
    paths: Vec<String>,
    /// Names and contents (rule H11).
    heredocs: Vec<(String, String)>,
    destination: String,
    chown: Option<String>,
    chmod: Option<String>,
    checksum: Option<String>,
}

impl Expanded {
    fn new(words: Words<'_>, copy: &ast::Copy) -> Result<Self, LowerError> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let chown = given(words.optional(copy.chown.as_deref())?);
        let chmod = given(words.optional(copy.chmod.as_deref())?);
        let checksum = given(words.optional(copy.checksum.as_deref())?);
        let mut paths = Vec::new();
        let mut heredocs = Vec::new();
        for source in &copy.sources {
            match source {
                ast::CopySource::Path(path) => paths.push(words.word(path)?),
                ast::CopySource::Heredoc(doc) => {
                    let body = if doc.expand {
                        words.heredoc(&doc.body)?
                    } else {
                        doc.body.clone()
                    };
                    heredocs.push((doc.name.clone(), body));
                }
            }
        }
        let destination = words.word(&copy.destination)?;
        Ok(Self {
            paths,
            heredocs,
            destination,
            chown,
            chmod,
            checksum,
        })
    }

    /// Rule M06.
    fn history(&self, parents: bool, is_add: bool) -> String {
        let mut text = String::from(if is_add { "ADD" } else { "COPY" });
        if parents {
            text.push_str(" --parents");
        }
        if let Some(chown) = &self.chown {
            text.push_str(&format!(" --chown={chown}"));
        }
        if let Some(chmod) = &self.chmod {
            text.push_str(&format!(" --chmod={chmod}"));
        }
        for path in &self.paths {
            text.push_str(&format!(" {}", remote::redact(path)));
        }
        for (name, _) in &self.heredocs {
            text.push_str(&format!(" <<{name}"));
        }
        text.push_str(&format!(" {} # buildkit", self.destination));
        text
    }
}

pub(crate) fn lower(
    scope: &mut Scope<'_>,
    copy: &ast::Copy,
    is_add: bool,
) -> Result<(), LowerError> {
    let expanded = Expanded::new(scope.words(), copy)?;
    if let Some(mode) = &expanded.chmod {
        chmod::validate(mode)?;
    }
    check_checksum(&expanded)?;
    let name = scope.words().for_name(&scope.instruction.text);
    let name = step_text(&remote::redact(&name));
    let mut inputs = Inputs { nodes: Vec::new() };
    let from = scope.sources.first().copied().flatten();
    let mut sources = Vec::new();
    for path in &expanded.paths {
        sources.push(match remote::classify(path)? {
            remote::Source::Local => {
                let tree = from.unwrap_or_else(|| context(scope));
                local_source(inputs.number(tree.node), path, copy.parents)
            }
            remote::Source::Git(_) if !is_add => {
                return Err(not_for_copy("source can't be a git ref for COPY"));
            }
            remote::Source::Http { .. } if !is_add => {
                return Err(not_for_copy("source can't be a URL for COPY"));
            }
            remote::Source::Git(options) => {
                let node = git(scope, copy, &expanded, path, options, &name)?;
                CopySource::Path {
                    input: inputs.number(node),
                    path: String::new(),
                }
            }
            remote::Source::Http { name: file } => {
                let node = http(scope, &expanded, path, &name);
                let unpack = copy.unpack == Some(true);
                CopySource::Download {
                    input: inputs.number(node),
                    name: file,
                    unpack,
                }
            }
        });
    }
    sources.extend(
        expanded
            .heredocs
            .iter()
            .map(|(name, content)| CopySource::Inline {
                name: name.clone(),
                content: content.clone(),
            }),
    );
    let history = expanded.history(copy.parents, is_add);
    let op = Copy {
        sources,
        destination: path::destination(scope.state.workdir(), &expanded.destination),
        // A changed mode needs the destination (rule C35).
        link: copy.link && expanded.chmod.is_none(),
        chown: expanded.chown,
        chmod: expanded.chmod,
        parents: copy.parents,
        exclude: copy.exclude.clone(),
        unpack: copy.unpack.unwrap_or(is_add),
        // Owners of a directory of this machine mean nothing in an image (rule C09).
        keep_owner: from.is_some_and(|tree| !tree.directory),
        epoch: scope.build.epoch(),
    };
    scope.step(Op::Copy(op), &inputs.nodes, &name);
    scope.state.record(history::layer(history));
    Ok(())
}

/// Numbers the trees a copy reads; number 0 is the tree it changes.
struct Inputs {
    nodes: Vec<NodeId>,
}

impl Inputs {
    fn number(&mut self, node: NodeId) -> usize {
        let index = self
            .nodes
            .iter()
            .position(|&known| known == node)
            .unwrap_or_else(|| {
                self.nodes.push(node);
                self.nodes.len() - 1
            });
        index + 1
    }
}

/// The main build context.
pub(crate) fn context(scope: &mut Scope<'_>) -> SourceTree {
    let op = Op::Context {
        name: MAIN_CONTEXT.to_owned(),
    };
    let meta = || Meta {
        name: "[internal] load build context".to_owned(),
        ..Meta::default()
    };
    SourceTree {
        node: scope.nodes.leaf(op, meta),
        directory: true,
    }
}

/// With `--parents` the first `/./` stays in the path, which is clean on both its sides (rule
/// C32).
fn local_source(input: usize, written: &str, parents: bool) -> CopySource {
    let path = match written.split_once("/./") {
        Some((before, after)) if parents && !path::relative(before).is_empty() => {
            format!("{}/./{}", path::relative(before), path::relative(after))
        }
        _ => path::relative(written),
    };
    CopySource::Path { input, path }
}

/// Rule D15.
fn check_checksum(expanded: &Expanded) -> Result<(), LowerError> {
    let Some(checksum) = &expanded.checksum else {
        return Ok(());
    };
    let [source] = expanded.paths.as_slice() else {
        return Err(LowerError::value(
            "checksum can't be specified for multiple sources",
        ));
    };
    match remote::classify(source)? {
        remote::Source::Local => Err(
            LowerError::value("checksum requires HTTP(S) or Git sources")
                .help("remove --checksum: files of the build context are what they are"),
        ),
        remote::Source::Git(_) => Ok(()),
        remote::Source::Http { .. } => {
            let invalid = |reason: &str| {
                LowerError::value(format!("{reason}: {checksum}"))
                    .help("write --checksum=sha256:<64 hexadecimal digits, lower case>")
            };
            let (algorithm, hex) = checksum
                .split_once(':')
                .ok_or_else(|| invalid("invalid checksum digest format"))?;
            if algorithm != "sha256" {
                return Err(invalid("unsupported digest algorithm"));
            }
            let valid =
                hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if valid {
                return Ok(());
            }
            Err(invalid("invalid checksum digest format"))
        }
    }
}

fn not_for_copy(message: &str) -> LowerError {
    LowerError::value(message).help("use ADD to fetch remote files")
}

fn git(
    scope: &mut Scope<'_>,
    copy: &ast::Copy,
    expanded: &Expanded,
    url: &str,
    options: GitOptions,
    name: &str,
) -> Result<NodeId, LowerError> {
    if let (Some(flag), Some(query)) = (copy.keep_git_dir, options.keep_git_dir)
        && flag != query
    {
        return Err(LowerError::value("inconsistent keep-git-dir configuration"));
    }
    if let (Some(flag), Some(query)) = (&expanded.checksum, &options.checksum)
        && flag != query
    {
        return Err(LowerError::value(format!(
            "checksum mismatch \"{flag}\" != \"{query}\""
        )));
    }
    let op = Git {
        url: url.to_owned(),
        keep_git_dir: options.keep_git_dir.or(copy.keep_git_dir).unwrap_or(false),
        checksum: options.checksum.or_else(|| expanded.checksum.clone()),
    };
    Ok(source_node(scope, Op::Git(op), name))
}

fn http(scope: &mut Scope<'_>, expanded: &Expanded, url: &str, name: &str) -> NodeId {
    let op = Http {
        url: url.to_owned(),
        checksum: expanded.checksum.clone(),
    };
    source_node(scope, Op::Http(op), name)
}

fn source_node(scope: &mut Scope<'_>, op: Op, name: &str) -> NodeId {
    let meta = Meta {
        name: name.to_owned(),
        stage: scope.stage.to_owned(),
        lines: Some(lines(scope.instruction.lines)),
        no_cache: scope.no_cache,
    };
    scope.nodes.leaf(op, || meta)
}
