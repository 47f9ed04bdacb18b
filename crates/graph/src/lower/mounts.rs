//! `RUN --mount` (rules A20, R15, R18, R20-R22, R27-R29).

use dockerfile::instruction as ast;

use super::captured::CredentialUse;
use super::error::LowerError;
use super::stage::Scope;
use super::{copy, path};
use crate::op::{Mount, MountKind, NodeId, Sharing};

const CACHE_MODE: u32 = 0o755;
const SECRET_MODE: u32 = 0o400;
const SSH_MODE: u32 = 0o600;
const DEFAULT_AGENT: &str = "default";

/// The mounts of one `RUN`.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    pub(crate) list: Vec<Mount>,
    /// Input 1 and up of the `RUN`.
    pub(crate) inputs: Vec<NodeId>,
    /// The first ssh socket (rule R29).
    pub(crate) agent_socket: Option<String>,
    pub(crate) secret_variables: Vec<String>,
    agents: usize,
}

pub(crate) fn lower(scope: &mut Scope<'_>, run: &ast::Run) -> Result<Mounts, LowerError> {
    let mut mounts = Mounts::default();
    for (index, written) in run.mounts.iter().enumerate() {
        let mount = expand(scope, written)?;
        let source = scope
            .sources
            .get(index)
            .copied()
            .flatten()
            .map(|tree| tree.node);
        let lowered = match mount.kind {
            ast::MountKind::Bind => mounts.bind(scope, &mount, source)?,
            ast::MountKind::Cache => mounts.cache(scope, &mount, source)?,
            ast::MountKind::Tmpfs => Mount {
                target: target(scope, text(&mount.target))?,
                kind: MountKind::Tmpfs {
                    size: mount.size.filter(|&size| size > 0),
                    read_only: mount.read_only.unwrap_or(false),
                },
            },
            ast::MountKind::Secret => mounts.secret(scope, &mount)?,
            ast::MountKind::Ssh => mounts.ssh(scope, &mount)?,
        };
        mounts.list.push(lowered);
    }
    Ok(mounts)
}

/// Values are read with the variables of the place; what depended on one is checked only now
/// (rules A20, R16).
fn expand(scope: &Scope<'_>, written: &ast::Mount) -> Result<ast::Mount, LowerError> {
    let words = scope.words();
    let mut failed = None;
    let mut expand = |value: &str| {
        words.word(value).map_err(|error| {
            let message = error.message.clone();
            failed = Some(error);
            message
        })
    };
    let expanded = written.expand(&mut expand);
    match (expanded, failed) {
        (Ok(mount), _) => Ok(mount),
        (Err(_), Some(error)) => Err(error),
        (Err(error), None) => Err(LowerError {
            help: error.help,
            ..LowerError::value(error.message)
        }),
    }
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// Owner ids are 32 bits wide; the parser refuses larger ones.
fn id(value: Option<u64>) -> Option<u32> {
    value.and_then(|value| u32::try_from(value).ok())
}

impl Mounts {
    fn input(&mut self, node: NodeId) -> usize {
        let known = self.inputs.iter().position(|&input| input == node);
        1 + known.unwrap_or_else(|| {
            self.inputs.push(node);
            self.inputs.len() - 1
        })
    }

    fn bind(
        &mut self,
        scope: &mut Scope<'_>,
        mount: &ast::Mount,
        source: Option<NodeId>,
    ) -> Result<Mount, LowerError> {
        let target = target(scope, text(&mount.target))?;
        let node = source.unwrap_or_else(|| copy::context(scope).node);
        let kind = MountKind::Bind {
            input: self.input(node),
            source: path::relative(text(&mount.source)),
            writable: !mount.read_only.unwrap_or(true),
        };
        Ok(Mount { target, kind })
    }

    /// Mode and owner are those of a new cache directory; a `source` has its own (rule R20).
    fn cache(
        &mut self,
        scope: &mut Scope<'_>,
        mount: &ast::Mount,
        source: Option<NodeId>,
    ) -> Result<Mount, LowerError> {
        let target = target(scope, text(&mount.target))?;
        let name = match text(&mount.id) {
            "" => clean(text(&mount.target)),
            name => name.to_owned(),
        };
        let namespace = scope.build.build_args.get("BUILDKIT_CACHE_MOUNT_NS");
        let name = match namespace.filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name,
        };
        let directory = path::relative(text(&mount.source));
        let whole = directory.is_empty();
        let given = mount.mode.is_some() || mount.uid.is_some() || mount.gid.is_some();
        let owned = whole && given;
        let kind = MountKind::Cache {
            id: name,
            // `from=scratch` is what no `from` means; a directory that is made for the cache is
            // empty whatever it is made in.
            input: source
                .filter(|&node| !owned && !scope.nodes.is_scratch(node))
                .map(|node| self.input(node)),
            source: directory,
            sharing: match mount.sharing.unwrap_or(ast::Sharing::Shared) {
                ast::Sharing::Shared => Sharing::Shared,
                ast::Sharing::Private => Sharing::Private,
                ast::Sharing::Locked => Sharing::Locked,
            },
            mode: mount.mode.filter(|_| whole).unwrap_or(CACHE_MODE),
            uid: id(mount.uid).filter(|_| whole).unwrap_or(0),
            gid: id(mount.gid).filter(|_| whole).unwrap_or(0),
            owned,
            read_only: mount.read_only.unwrap_or(false),
            fresh: owned && scope.no_cache,
        };
        Ok(Mount { target, kind })
    }

    /// A file, unless there is `env` and no target (rule R27).
    fn secret(&mut self, scope: &mut Scope<'_>, mount: &ast::Mount) -> Result<Mount, LowerError> {
        let given = text(&mount.target);
        let name = [text(&mount.source), text(&mount.id)]
            .into_iter()
            .find(|name| !name.is_empty())
            .or_else(|| path::base_name(given))
            .ok_or_else(|| LowerError::value("one of source, target required"))?;
        let file = mount.env.is_none() || !given.is_empty();
        let target = match (file, given) {
            (false, _) => String::new(),
            (true, "") => format!("/run/secrets/{}", path::base_name(name).unwrap_or_default()),
            (true, given) => target(scope, given)?,
        };
        let used = CredentialUse {
            required: mount.required.unwrap_or(false),
            lines: scope.instruction.lines,
        };
        scope
            .state
            .captured
            .secrets
            .entry(name.to_owned())
            .or_insert(used);
        self.secret_variables.extend(mount.env.clone());
        let kind = MountKind::Secret {
            id: name.to_owned(),
            required: used.required,
            file,
            env: mount.env.clone(),
            mode: mount.mode.unwrap_or(SECRET_MODE),
            uid: id(mount.uid).unwrap_or(0),
            gid: id(mount.gid).unwrap_or(0),
        };
        Ok(Mount { target, kind })
    }

    fn ssh(&mut self, scope: &mut Scope<'_>, mount: &ast::Mount) -> Result<Mount, LowerError> {
        if !text(&mount.source).is_empty() {
            return Err(LowerError::value("ssh does not support source"));
        }
        let target = match text(&mount.target) {
            "" => format!("/run/buildkit/ssh_agent.{}", self.agents),
            given => target(scope, given)?,
        };
        self.agents += 1;
        self.agent_socket.get_or_insert_with(|| target.clone());
        let name = Some(text(&mount.id))
            .filter(|id| !id.is_empty())
            .unwrap_or(DEFAULT_AGENT);
        let used = CredentialUse {
            required: mount.required.unwrap_or(false),
            lines: scope.instruction.lines,
        };
        scope
            .state
            .captured
            .agents
            .entry(name.to_owned())
            .or_insert(used);
        let kind = MountKind::Ssh {
            id: name.to_owned(),
            required: used.required,
            mode: mount.mode.unwrap_or(SSH_MODE),
            uid: id(mount.uid).unwrap_or(0),
            gid: id(mount.gid).unwrap_or(0),
        };
        Ok(Mount { target, kind })
    }
}

/// Joined to the working directory, which an empty target stands for; the root cannot be covered
/// (rule R15).
fn target(scope: &Scope<'_>, written: &str) -> Result<String, LowerError> {
    let target = path::resolve(scope.state.workdir(), written);
    if target == "/" {
        return Err(
            LowerError::value(format!("invalid mount target \"{target}\""))
                .help("give the mount a target= below the root directory"),
        );
    }
    Ok(target)
}

/// Clean; absolute or not, as written (rule R21).
fn clean(path: &str) -> String {
    if path.starts_with('/') {
        return path::resolve("/", path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    if parts.is_empty() {
        ".".to_owned()
    } else {
        parts.join("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r21_the_cache_id_is_the_cleaned_target() {
        for (path, expected) in [
            ("/a//b/", "/a/b"),
            ("a/../b", "b"),
            ("../a", "../a"),
            ("", "."),
            ("./x", "x"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
