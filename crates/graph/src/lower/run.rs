//! `RUN` (rules A10, A11, H07-H09, M05, R01, X07).

use dockerfile::instruction::{self as ast, CommandLine};

use super::config::with_shell;
use super::error::{ErrorKind, LowerError};
use super::mounts::{self, Mounts};
use super::stage::{Scope, StageState, step_text};
use super::variables::Variables;
use super::{epoch, history, path};
use crate::op::{Network, Op, Run};

/// Where the script of a `#!` heredoc appears (rule H08).
const SCRIPT_DIRECTORY: &str = "/dev/pipes";
const DEFAULT_HOSTNAME: &str = "buildkitsandbox";
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

pub(crate) fn lower(scope: &mut Scope<'_>, run: &ast::Run) -> Result<(), LowerError> {
    if let Some(device) = run.devices.first() {
        return Err(
            LowerError::unsupported(format!("RUN --device={device} is not supported"))
                .help("devices (CDI) cannot be given to a step"),
        );
    }
    let command = Command::new(run, &scope.state.config.config.shell)?;
    let mounts = mounts::lower(scope, run)?;
    let name = step_name(scope, run, &command, &mounts);
    let history = history_text(&command.args, scope.state);
    let mut env = scope.state.variables.clone();
    if let Some(socket) = &mounts.agent_socket
        && env.value(AGENT_VARIABLE).is_none()
    {
        env.set(AGENT_VARIABLE, socket);
    }
    // Always there, so that tools which know it make the same output every time (rule E10).
    if env.value(epoch::VARIABLE).is_none() {
        env.set(epoch::VARIABLE, scope.build.epoch().to_string());
    }
    // Every step keeps a copy.
    scope.build.budget.spend(env.size())?;
    let selection = scope.build.selection;
    let (extra_hosts, extra_host_addresses) = selection.add_hosts.iter().cloned().unzip();
    let op = Run {
        args: command.args,
        env: env.entries().cloned().collect(),
        cwd: path::resolve("/", scope.state.workdir()),
        user: scope.state.config.config.user.clone(),
        hostname: hostname(scope),
        network: network(scope, run.network)?,
        insecure: insecure(scope, run.security)?,
        script: command.script,
        mounts: mounts.list,
        shm_size: selection.shm_size,
        ulimits: selection.ulimits.clone(),
        extra_hosts,
        extra_host_addresses,
        proxy_env: proxies(&scope.build.build_args),
        devices: Vec::new(),
        epoch: scope.build.epoch(),
    };
    scope.step(Op::Run(op), &mounts.inputs, &name);
    scope.state.record(history::layer(history));
    Ok(())
}

/// The argument vector, and the file it runs when that comes with it.
struct Command {
    args: Vec<String>,
    script: Option<(String, String)>,
    /// First line of a heredoc, for the step's name.
    summary: Option<String>,
}

impl Command {
    fn new(run: &ast::Run, shell: &[String]) -> Result<Self, LowerError> {
        let text = match &run.command {
            CommandLine::Exec(args) if args.is_empty() => {
                return Err(LowerError::value("RUN needs a command")
                    .help("name a program: RUN [\"/bin/true\"]"));
            }
            CommandLine::Exec(args) => {
                return Ok(Self {
                    args: args.clone(),
                    script: None,
                    summary: None,
                });
            }
            CommandLine::Shell(text) => text,
        };
        let single = match run.heredocs.as_slice() {
            [] => return Ok(Self::shell(shell, text)),
            [first, ..] if is_heredoc_alone(text) => first,
            // The shell gets its heredocs back as it would read them from a file (rule H09).
            many => {
                let mut script = text.clone();
                for heredoc in many {
                    script.push_str(&format!("\n{}{}", heredoc.body_as_written(), heredoc.name));
                }
                return Ok(Self::shell(shell, &script));
            }
        };
        let summary = Some(summarise(&single.body));
        if single.body.starts_with("#!") {
            let path = format!("{SCRIPT_DIRECTORY}/{}", single.name);
            let script = Some((single.name.clone(), single.body.clone()));
            return Ok(Self {
                args: with_shell(shell, &path),
                script,
                summary,
            });
        }
        Ok(Self {
            args: with_shell(shell, &single.body),
            script: None,
            summary,
        })
    }

    fn shell(shell: &[String], text: &str) -> Self {
        Self {
            args: with_shell(shell, text),
            script: None,
            summary: None,
        }
    }
}

/// Whether the whole command is one `<<name`, nothing before or after it.
fn is_heredoc_alone(text: &str) -> bool {
    let text = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = text.strip_prefix("<<") else {
        return false;
    };
    let name = rest.strip_prefix('-').unwrap_or(rest).trim();
    let mut quote = None;
    let mut escaped = false;
    for c in name.chars() {
        match (quote, c) {
            (_, '<') => return false,
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, c) if c.is_whitespace() => return false,
            _ => {}
        }
    }
    !name.is_empty()
}

fn summarise(body: &str) -> String {
    let mut lines = body.trim().lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() {
        format!("{first}...")
    } else {
        first.to_owned()
    }
}

/// Secret values stand as `****` (rule X07 for the rest).
fn step_name(scope: &Scope<'_>, run: &ast::Run, command: &Command, mounts: &Mounts) -> String {
    let mut text = scope.instruction.text.clone();
    if !run.heredocs.is_empty()
        && let Some(summary) = &command.summary
    {
        text.push_str(&format!(" ({summary})"));
    }
    let mut shown: Variables = scope.state.variables.clone();
    for name in &mounts.secret_variables {
        shown.set(name, "****");
    }
    step_text(&scope.build.words(&shown).for_run_name(&text))
}

/// `RUN |2 a=1 b=2 /bin/sh -c … # buildkit` (rules A08, M05): each `ARG` once, where it was
/// declared first, with the value now in force.
fn history_text(args: &[String], state: &StageState) -> String {
    let mut text = String::from("RUN ");
    let declared = state.args();
    if !declared.is_empty() {
        text.push_str(&format!("|{} ", declared.len()));
    }
    for (name, declared) in declared {
        let value = state
            .variables
            .value(name)
            .or(declared.as_deref())
            .unwrap_or_default();
        text.push_str(&format!("{name}={value} "));
    }
    text + &args.join(" ") + " # buildkit"
}

fn hostname(scope: &Scope<'_>) -> String {
    let argument = scope.build.build_args.get("BUILDKIT_SANDBOX_HOSTNAME");
    argument
        .filter(|name| !name.is_empty())
        .or(scope.build.selection.hostname.as_ref())
        .cloned()
        .unwrap_or_else(|| DEFAULT_HOSTNAME.to_owned())
}

/// Rule R34.
fn network(scope: &Scope<'_>, asked: ast::Network) -> Result<Network, LowerError> {
    let selection = scope.build.selection;
    match asked {
        ast::Network::Default => Ok(selection.network.unwrap_or(Network::Default)),
        ast::Network::None => Ok(Network::None),
        ast::Network::Host => {
            let granted = selection.network == Some(Network::Host);
            if granted || selection.allow.contains("network.host") {
                return Ok(Network::Host);
            }
            Err(entitlement("network.host"))
        }
    }
}

/// Rule R33.
fn insecure(scope: &Scope<'_>, asked: ast::Security) -> Result<bool, LowerError> {
    match asked {
        ast::Security::Sandbox => Ok(false),
        ast::Security::Insecure if scope.build.selection.allow.contains("security.insecure") => {
            Ok(true)
        }
        ast::Security::Insecure => Err(entitlement("security.insecure")),
    }
}

fn entitlement(name: &str) -> LowerError {
    LowerError::new(ErrorKind::Entitlement, format!("{name} is not allowed"))
        .help(format!("pass --allow {name} if this build may have it"))
}

/// Both spellings of the proxy variables given as build arguments; keys count in byte order, so
/// of two spellings the lower-case one wins (rules A11, A12).
fn proxies(args: &std::collections::BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut env = Vec::new();
    for name in [
        "http_proxy",
        "https_proxy",
        "ftp_proxy",
        "no_proxy",
        "all_proxy",
    ] {
        let given = args.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name));
        if let Some((_, value)) = given.filter(|(_, value)| !value.is_empty()) {
            env.push((name.to_uppercase(), value.clone()));
            env.push((name.to_owned(), value.clone()));
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h07_h09_a_heredoc_alone_is_a_script() {
        for text in [
            "<<EOF", "<<-EOF", "<< EOF", "3<<EOF", "<<'a b'", "<<\"x\"", "<<E\\ F",
        ] {
            assert!(is_heredoc_alone(text), "{text}");
        }
        for text in [
            "<<EOF cat",
            "cat <<EOF",
            "<<A <<B",
            "<<",
            "<<<x",
            "<<EOF > /x",
        ] {
            assert!(!is_heredoc_alone(text), "{text}");
        }
    }

    #[test]
    fn a12_of_two_spellings_the_lower_case_one_wins() {
        let args = [
            ("http_proxy", "low"),
            ("HTTP_PROXY", "high"),
            ("NO_PROXY", ""),
        ];
        let args = args.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let pair = |name: &str| (name.to_owned(), "low".to_owned());
        assert_eq!(proxies(&args), [pair("HTTP_PROXY"), pair("http_proxy")]);
    }
}
