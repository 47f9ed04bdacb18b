//! `RUN`: its flags and its command.

use super::context::Context;
use super::flags::{self, Kind, Known};
use super::instruction::command_line;
use super::split::Command;
use crate::instruction::{Device, Heredoc, Mount, Network, Run, Security};
use crate::suggest::nearest;
use crate::text::quote;

const RUN: Known = &[
    ("mount", Kind::Many),
    ("network", Kind::One),
    ("security", Kind::One),
    ("device", Kind::Many),
];

pub(super) fn parse(
    context: &mut Context<'_>,
    command: &Command<'_>,
    heredocs: Vec<Heredoc>,
) -> Option<Run> {
    let flags = flags::parse(context, &command.flags, RUN);
    let mut mounts = Vec::new();
    for flag in flags.many("mount") {
        match Mount::parse(&flag.value) {
            Ok(mount) => mounts.push(mount),
            Err(error) => context.error_at(&flag.word, error.message, error.help),
        }
    }
    let mut devices = Vec::new();
    for flag in flags.many("device") {
        match Device::parse(&flag.value) {
            Ok(_) => devices.push(flag.value.clone()),
            Err(error) => context.error_at(&flag.word, error.message, error.help),
        }
    }
    let network = match flags
        .flag("network")
        .map(|flag| (flag.value.as_str(), &flag.word))
    {
        None | Some(("default", _)) => Network::Default,
        Some(("none", _)) => Network::None,
        Some(("host", _)) => Network::Host,
        Some((value, word)) => {
            let help = choice(value, &["default", "none", "host"]);
            context.error_at(
                word,
                format!("invalid network mode {}", quote(value)),
                Some(help),
            );
            Network::Default
        }
    };
    let security = match flags
        .flag("security")
        .map(|flag| (flag.value.as_str(), &flag.word))
    {
        None | Some(("sandbox", _)) => Security::Sandbox,
        Some(("insecure", _)) => Security::Insecure,
        Some((value, word)) => {
            let help = choice(value, &["sandbox", "insecure"]);
            context.error_at(
                word,
                format!("security {} is not valid", quote(value)),
                Some(help),
            );
            Security::Sandbox
        }
    };
    let command = command_line(context, command.arguments, command.arguments_start)?;
    Some(Run {
        command,
        heredocs,
        mounts,
        network,
        security,
        devices,
    })
}

fn choice(value: &str, known: &[&str]) -> String {
    match nearest(value, known.iter().copied()) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("known are {}", known.join(", ")),
    }
}
