//! Instructions that change nothing but the image's config (rules K14, M03, W14-W23).

use dockerfile::instruction::{CommandLine, Healthcheck, KeyValues, Onbuild};
use dockerfile::suggest::nearest;
use serde_json::{Map, Value, json};

use super::env;
use super::error::LowerError;
use super::history::{self, duration, list, quoted_list};
use super::stage::Scope;

const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The `SHELL` in force, or `/bin/sh -c`, with `text` as its last argument (rule W14).
pub(crate) fn with_shell(shell: &[String], text: &str) -> Vec<String> {
    let mut args = shell.to_vec();
    if args.is_empty() {
        args.extend(DEFAULT_SHELL.map(str::to_owned));
    }
    args.push(text.to_owned());
    args
}

fn arguments(scope: &Scope<'_>, command: &CommandLine) -> Vec<String> {
    match command {
        CommandLine::Exec(args) => args.clone(),
        CommandLine::Shell(text) => with_shell(&scope.state.config.config.shell, text),
    }
}

fn record(scope: &mut Scope<'_>, text: String) {
    scope.state.record(history::metadata(text));
}

pub(crate) fn cmd(scope: &mut Scope<'_>, command: &CommandLine) -> Result<(), LowerError> {
    let args = arguments(scope, command);
    record(scope, format!("CMD {}", quoted_list(&args)));
    let config = &mut scope.state.config.config;
    config.cmd = args;
    config.args_escaped = true;
    scope.state.cmd_set = true;
    Ok(())
}

/// Clears an inherited CMD (rule S14).
pub(crate) fn entrypoint(scope: &mut Scope<'_>, command: &CommandLine) -> Result<(), LowerError> {
    let args = arguments(scope, command);
    record(scope, format!("ENTRYPOINT {}", quoted_list(&args)));
    scope.state.config.config.entrypoint = args;
    if !scope.state.cmd_set {
        scope.state.config.config.cmd.clear();
    }
    Ok(())
}

/// Replaces the base's check as a whole (rule W21). Shell form is left to the runtime's shell,
/// whatever `SHELL` says.
pub(crate) fn healthcheck(scope: &mut Scope<'_>, check: &Healthcheck) -> Result<(), LowerError> {
    let (test, times, retries) = match check {
        Healthcheck::None => (vec!["NONE".to_owned()], [0; 4], 0),
        Healthcheck::Cmd(check) => {
            let test = match &check.command {
                CommandLine::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
                CommandLine::Exec(args) => std::iter::once("CMD".to_owned())
                    .chain(args.iter().cloned())
                    .collect(),
            };
            let times = [
                check.interval,
                check.timeout,
                check.start_period,
                check.start_interval,
            ];
            (test, times, check.retries)
        }
    };
    const TIMES: [&str; 4] = ["Interval", "Timeout", "StartPeriod", "StartInterval"];
    let mut text = format!("HEALTHCHECK {{Test:{}", list(&test));
    let mut value = Map::new();
    value.insert("Test".to_owned(), json!(test));
    for (name, time) in TIMES.iter().zip(times) {
        text.push_str(&format!(" {name}:{}", duration(time)));
        if time != 0 {
            value.insert((*name).to_owned(), json!(time));
        }
    }
    text.push_str(&format!(" Retries:{retries}}}"));
    if retries != 0 {
        value.insert("Retries".to_owned(), json!(retries));
    }
    scope.state.config.config.healthcheck = Some(Value::Object(value));
    record(scope, text);
    Ok(())
}

pub(crate) fn label(scope: &mut Scope<'_>, pairs: &KeyValues) -> Result<(), LowerError> {
    let mut text = String::from("LABEL");
    for (key, value) in env::expand(scope, pairs)? {
        text.push_str(&format!(" {key}={value}"));
        scope.state.config.config.labels.insert(key, value);
    }
    record(scope, text);
    Ok(())
}

/// Rule W23.
pub(crate) fn maintainer(scope: &mut Scope<'_>, name: &str) -> Result<(), LowerError> {
    scope.state.config.author = Some(name.to_owned());
    record(scope, format!("MAINTAINER {name}"));
    Ok(())
}

/// Leaves no history (rule S23).
pub(crate) fn onbuild(scope: &mut Scope<'_>, onbuild: &Onbuild) -> Result<(), LowerError> {
    scope
        .state
        .config
        .config
        .on_build
        .push(onbuild.text.clone());
    Ok(())
}

/// Rule W22.
pub(crate) fn shell(scope: &mut Scope<'_>, shell: &[String]) -> Result<(), LowerError> {
    scope.state.config.config.shell = shell.to_vec();
    record(scope, format!("SHELL {}", list(shell)));
    Ok(())
}

/// Stored as written when it is a signal (rule W20).
pub(crate) fn stopsignal(scope: &mut Scope<'_>, written: &str) -> Result<(), LowerError> {
    let signal = scope.words().word(written)?;
    if !is_signal(&signal) {
        let upper = signal.to_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let near = match nearest(name, SIGNALS) {
            Some(near) => format!(" (did you mean SIG{near}?)"),
            None => String::new(),
        };
        return Err(LowerError::value(format!("invalid signal: {signal}{near}"))
            .help("give a name (SIGTERM, TERM, RTMIN+3) or a number")
            .about(written));
    }
    record(scope, format!("STOPSIGNAL {signal}"));
    scope.state.config.config.stop_signal = signal;
    Ok(())
}

/// Stored as written; looked up when something runs (rule W09).
pub(crate) fn user(scope: &mut Scope<'_>, written: &str) -> Result<(), LowerError> {
    let user = scope.words().word(written)?;
    record(scope, format!("USER {user}"));
    scope.state.config.config.user = user;
    Ok(())
}

/// Creates nothing (rule W19).
pub(crate) fn volume(scope: &mut Scope<'_>, written: &[String]) -> Result<(), LowerError> {
    let words = scope.words();
    let paths = written
        .iter()
        .map(|path| words.word(path))
        .collect::<Result<Vec<_>, LowerError>>()?;
    if paths.iter().any(String::is_empty) {
        return Err(LowerError::value(
            "VOLUME specified can not be an empty string",
        ));
    }
    record(scope, format!("VOLUME {}", list(&paths)));
    for path in paths {
        scope.state.config.config.volumes.insert(path, json!({}));
    }
    Ok(())
}

/// Names of `signal(7)` with or without `SIG`, in any case, and any number but 0.
/// Without `SIG`.
const SIGNALS: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |prefix: &str, largest: u32| {
        name.strip_prefix(prefix)
            .filter(|rest| !rest.starts_with(['0', '+']))
            .and_then(|rest| rest.parse::<u32>().ok())
            .is_some_and(|number| number <= largest)
    };
    SIGNALS.contains(&name) || offset("RTMIN+", 15) || offset("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w20_signals() {
        for text in [
            "SIGTERM",
            "term",
            "Sigint",
            "9",
            "SIGRTMIN+3",
            "RTMAX-14",
            "RTMIN",
        ] {
            assert!(is_signal(text), "{text}");
        }
        for text in [
            "", "0", "SIGNOPE", "RTMIN+16", "RTMAX-15", "RTMIN+0", "RTMIN+03", "15x",
        ] {
            assert!(!is_signal(text), "{text}");
        }
    }
}
