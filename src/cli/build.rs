//! `layercake build`: the flags of `docker buildx build`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sandbox::inside::{Inside, Isolation};

use super::parse::{self, usage};
use super::{annotation, call};
use crate::failure::Failure;
use crate::request::{
    BuildRequest, Dns, DockerfileSource, NamedContext, Output, Progress, RemoteContext,
    SecretSource, Snapshotter, SshSource, StepLimits, native_platform,
};
use crate::{config, engine};

/// Build an image from a Dockerfile
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// Directory whose files COPY and ADD take, or a git repository: URL.git[#REF[:DIR]]
    context: String,
    /// Name of the Dockerfile (default: CONTEXT/Dockerfile; - reads standard input)
    #[arg(short, long, value_name = "PATH")]
    file: Option<String>,
    /// Build this stage instead of the last one
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set a build argument; without a value it comes from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Name a further context: DIR, oci-layout://DIR[:TAG|@DIGEST] or docker-image://REF
    #[arg(long, value_name = "NAME=VALUE")]
    build_context: Vec<String>,
    /// Name the image; without --output it is kept in the local store
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Vec<String>,
    /// Where the image goes: type=oci,dest=PATH[,tar=true|false]
    #[arg(short, long, value_name = "SPEC")]
    output: Vec<String>,
    /// Set a label of the image
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Annotate the image's manifest: [manifest:|manifest-descriptor:]KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// Do not use the cache
    #[arg(long)]
    no_cache: bool,
    /// Do not use the cache for these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// How to show progress
    #[arg(long, value_enum, default_value = "auto")]
    progress: ProgressArg,
    /// Print only the image digest
    #[arg(short, long)]
    quiet: bool,
    /// Platform to build for; steps that run need a machine that runs its programs
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Write the image digest to this file
    #[arg(long, value_name = "PATH")]
    iidfile: Option<PathBuf>,
    /// Write a JSON description of the result to this file
    #[arg(long, value_name = "PATH")]
    metadata_file: Option<PathBuf>,
    /// Make a secret available to RUN --mount=type=secret: id=NAME[,src=PATH|,env=NAME]
    #[arg(long, value_name = "SPEC")]
    secret: Vec<String>,
    /// Make an ssh agent, or keys in files, available to RUN --mount=type=ssh and to git:
    /// default or ID[=SOCKET|KEY[,KEY]]
    #[arg(long, value_name = "SPEC")]
    ssh: Vec<String>,
    /// Network of RUN steps that do not choose their own: host, none, or sandbox (the outside but
    /// not this machine's loopback; needs pasta)
    #[arg(long, value_name = "MODE")]
    network: Option<String>,
    /// Add a line to /etc/hosts of RUN steps
    #[arg(long, value_name = "NAME:IP")]
    add_host: Vec<String>,
    /// Size of /dev/shm of RUN steps
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// Resource limit of RUN steps
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// Name server of RUN steps instead of the host's
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<std::net::IpAddr>,
    /// Search domain of RUN steps instead of the host's
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Option of the resolver of RUN steps instead of the host's
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Kill a RUN step that takes longer: 90s, 10m, 1h30m
    #[arg(long, value_name = "DURATION")]
    step_timeout: Option<String>,
    /// Memory that one RUN step may use
    #[arg(long, value_name = "BYTES")]
    memory: Option<String>,
    /// Processors that one RUN step may use, such as 1.5
    #[arg(long, value_name = "N")]
    cpus: Option<String>,
    /// Let layers hold this secret; otherwise a step whose files hold one fails
    #[arg(long, value_name = "ID")]
    allow_secret_in_layer: Vec<String>,
    /// Grant an entitlement: network.host, security.insecure
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// Run the build checks and build nothing: short for --call check
    #[arg(long, conflicts_with = "call")]
    check: bool,
    /// Ask about the Dockerfile instead of building: check, outline, targets,
    /// subrequests.describe
    #[arg(long, value_name = "METHOD[,format=json]")]
    call: Option<String>,
    /// How RUN steps are kept apart from the host; layercake doctor shows what is possible
    #[arg(long, value_enum, default_value = "auto")]
    isolation: IsolationArg,
    /// What root file systems of RUN steps are made of
    #[arg(long, value_enum, default_value = "auto")]
    snapshotter: SnapshotterArg,
    /// Say how steps are run
    #[arg(short, long)]
    verbose: bool,
    /// How many steps may execute at once
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProgressArg {
    Auto,
    Plain,
    Quiet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IsolationArg {
    /// The best that works
    Auto,
    /// A user namespace with a range of ids
    Userns,
    /// A user namespace with the own id only; owners and users are emulated
    SingleId,
    /// Namespaces of real root
    Root,
    /// Root without namespaces or mounts, as in a container with Docker's defaults
    Chroot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SnapshotterArg {
    /// The best that works
    Auto,
    /// Overlay file systems
    Overlay,
    /// Directories that hold all files
    Plain,
}

/// Most steps wait for the disk or the network, so there are more than cores.
fn default_jobs() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .saturating_mul(2)
        .max(8)
}

pub(super) fn run(args: BuildArgs, inside: Option<Inside>) -> Result<u8, Failure> {
    let call = match (args.check, args.call.as_deref()) {
        (true, _) => call::parse("check")?,
        (false, Some(text)) => call::parse(text)?,
        (false, None) => None,
    };
    let request = request(args)?;
    match call {
        Some(_) if request.remote_context.is_some() => Err(usage(
            "--call and --check with a context that has to be fetched are not implemented",
        )),
        Some(call) => call::run(&request, call),
        None => engine::start(&request, inside),
    }
}

fn request(args: BuildArgs) -> Result<BuildRequest, Failure> {
    if args.jobs == Some(0) {
        return Err(usage("--jobs 0: at least one step must be allowed to run"));
    }
    let platform = args.platform.as_deref().map(parse::platform).transpose()?;
    let quiet = args.quiet || args.progress == ProgressArg::Quiet;
    let outputs: Vec<Output> = args
        .output
        .iter()
        .map(|text| parse::output(text))
        .collect::<Result<_, _>>()?;
    let contexts: BTreeMap<String, NamedContext> = args
        .build_context
        .iter()
        .map(|t| parse::named_context(t))
        .collect::<Result<_, _>>()?;
    let secrets: BTreeMap<String, SecretSource> = args
        .secret
        .iter()
        .map(|text| parse::secret(text))
        .collect::<Result<_, _>>()?;
    let agents: BTreeMap<String, SshSource> = args
        .ssh
        .iter()
        .map(|text| parse::ssh(text))
        .collect::<Result<_, _>>()?;
    let annotated = platform.clone().unwrap_or_else(native_platform);
    let annotations = annotation::parse(&args.annotation, &annotated)?;
    let (context, remote_context) = context(&args.context)?;
    Ok(BuildRequest {
        context,
        remote_context,
        dockerfile: match args.file.as_deref() {
            None => DockerfileSource::Default,
            Some("-") => DockerfileSource::Stdin,
            Some(url) if parse::is_http(url) => DockerfileSource::Url(url.to_owned()),
            Some(path) => DockerfileSource::Path(path.into()),
        },
        target: args.target,
        build_args: build_args(&args.build_arg),
        labels: labels(&args.label),
        annotations,
        contexts,
        tags: args.tag,
        outputs,
        platform,
        no_cache: args.no_cache,
        no_cache_filter: args
            .no_cache_filter
            .iter()
            .map(|s| s.to_lowercase())
            .collect(),
        network: network(args.network.as_deref())?,
        add_hosts: args
            .add_host
            .iter()
            .map(|t| parse::add_host(t))
            .collect::<Result<_, _>>()?,
        shm_size: args
            .shm_size
            .as_deref()
            .map(|t| parse::size("--shm-size", t))
            .transpose()?,
        ulimits: ulimits(args.ulimit)?,
        dns: Dns {
            servers: args.dns,
            search: args.dns_search,
            options: args.dns_option,
        },
        limits: StepLimits {
            timeout: args
                .step_timeout
                .as_deref()
                .map(|t| parse::duration("--step-timeout", t))
                .transpose()?,
            memory: args.memory.as_deref().map(parse::memory).transpose()?,
            cpu_millis: args.cpus.as_deref().map(parse::cpus).transpose()?,
        },
        secrets_in_layers: args.allow_secret_in_layer.into_iter().collect(),
        allow: entitlements(args.allow)?,
        secrets,
        agents,
        isolation: match args.isolation {
            IsolationArg::Auto => None,
            IsolationArg::Userns => Some(Isolation::UserNamespace),
            IsolationArg::SingleId => Some(Isolation::SingleId),
            IsolationArg::Root => Some(Isolation::Root),
            IsolationArg::Chroot => Some(Isolation::Chroot),
        },
        snapshotter: match args.snapshotter {
            SnapshotterArg::Auto => None,
            SnapshotterArg::Overlay => Some(Snapshotter::Overlay),
            SnapshotterArg::Plain => Some(Snapshotter::Plain),
        },
        verbose: args.verbose,
        jobs: args.jobs.unwrap_or_else(default_jobs),
        store_root: config::store_root()?,
        progress: if quiet {
            Progress::Quiet
        } else {
            Progress::Plain
        },
        iid_file: args.iidfile,
        metadata_file: args.metadata_file,
    })
}

/// A directory, or something elsewhere.
fn context(text: &str) -> Result<(Option<PathBuf>, Option<RemoteContext>), Failure> {
    if text == "-" {
        return Err(usage(
            "reading the context from standard input is not implemented",
        ));
    }
    if let Some(url) = parse::git_context(text) {
        return Ok((None, Some(RemoteContext::Git(url))));
    }
    if parse::is_http(text) {
        return Ok((None, Some(RemoteContext::Http(text.to_owned()))));
    }
    if let Some((scheme, _)) = text.split_once("://") {
        let message = format!("a context at {scheme}:// is not implemented");
        return Err(usage(message).hint(
            "directories, git repositories, and archives and Dockerfiles on HTTP servers can be \
             contexts",
        ));
    }
    Ok((Some(PathBuf::from(text)), None))
}

pub(super) fn build_args(given: &[String]) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for text in given {
        match text.split_once('=') {
            Some((name, value)) => args.insert(name.to_owned(), value.to_owned()),
            // Without a value: that of the environment, or none at all.
            None => match std::env::var(text) {
                Ok(value) => args.insert(text.clone(), value),
                Err(_) => args.remove(text),
            },
        };
    }
    args
}

fn labels(given: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    given.iter().map(pair).collect()
}

fn network(mode: Option<&str>) -> Result<Option<graph::op::Network>, Failure> {
    match mode {
        None | Some("default") => Ok(None),
        Some("host") => Ok(Some(graph::op::Network::Host)),
        Some("none") => Ok(Some(graph::op::Network::None)),
        Some("sandbox") => Ok(Some(graph::op::Network::Sandbox)),
        Some(other) => Err(usage(format!(
            "--network {other}: not one of default, host, none, sandbox"
        ))),
    }
}

/// Wrong ones are told now, not when the first step runs.
fn ulimits(given: Vec<String>) -> Result<Vec<String>, Failure> {
    for text in &given {
        engine::limits::ulimit(text)?;
    }
    Ok(given)
}

fn entitlements(given: Vec<String>) -> Result<BTreeSet<String>, Failure> {
    for name in &given {
        if !matches!(name.as_str(), "network.host" | "security.insecure") {
            return Err(usage(format!(
                "--allow {name}: not one of network.host, security.insecure"
            )));
        }
    }
    Ok(given.into_iter().collect())
}
