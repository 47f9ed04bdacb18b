//! `--network=sandbox`, on a host made for the test: a network namespace with addresses, a default
//! route, a name server and servers on its loopback.
//!
//! This program plays three parts: the test starts itself as that host ([`host`]), which starts the
//! build, whose step is again this program ([`client`]).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use serde_json::Value;

use crate::rungs::{doctor, has_containers, is_root, isolation};
use crate::support::{Env, at_home, can_run, eventually, layercake};

/// In the environment of [`host`]: its directory. In that of [`client`]: anything.
const PART: &str = "LAYERCAKE_TEST_NETWORK";

/// Addresses of the host: that of its interface, which steps have as well, and another.
const HOST: &str = "10.77.0.1";
const GATEWAY: &str = "10.77.0.2";
const OUTSIDE: &str = "10.78.0.1:8080";
const ON_LOOPBACK: &str = "127.0.0.1:8081";
const NAME_SERVER: &str = "127.0.0.1:53";

/// The probe of `layercake doctor`, when it is good.
fn pasta_works() -> bool {
    let found = doctor();
    let chosen = &found["chosen"]["isolation"];
    let attempts = found["attempts"].as_array().unwrap();
    let attempt = attempts.iter().find(|a| a["isolation"] == *chosen);
    let probes = attempt.and_then(|a| a["probes"].as_array());
    let probe = probes.and_then(|all| all.iter().find(|p| p["name"] == "sandbox network"));
    match probe {
        Some(probe) if probe["ok"] == Value::Bool(true) => true,
        Some(probe) => {
            eprintln!("SKIPPED: no sandbox network: {}", probe["detail"]);
            false
        }
        None => {
            eprintln!("SKIPPED: no sandbox network with isolation {chosen}");
            false
        }
    }
}

/// This program, to play another part.
fn myself(part: &str) -> Vec<String> {
    let test = format!("network::{part}");
    [
        "--exact",
        &test,
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// This program in the context; it is static (.cargo/config.toml).
fn take_along(env: &Env) {
    let own = std::env::current_exe().unwrap();
    std::fs::copy(own, env.context().join("client")).unwrap();
}

fn has_programs(names: &[&str]) -> bool {
    let missing = names.iter().find(|name| {
        let mut command = Command::new(name);
        command
            .arg("-V")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_err()
    });
    if let Some(name) = missing {
        eprintln!("SKIPPED: no {name}");
    }
    missing.is_none()
}

#[test]
fn a_sandboxed_step_reaches_the_outside_and_not_the_loopback_of_the_host() {
    if !can_run() || !pasta_works() || !has_programs(&["unshare", "ip", "mount"]) {
        return;
    }
    let env = Env::new();
    take_along(&env);
    let run = format!("RUN {PART}=1 /client {}\n", myself("client").join(" "));
    env.dockerfile(&format!(
        "FROM busybox\nCOPY client /\n{run}USER app\n{run}"
    ));
    let mut host = at_home(Command::new("unshare"));
    host.args(["--net", "--mount"]);
    if !is_root() {
        host.args(["--user", "--map-root-user"]);
    }
    host.arg(std::env::current_exe().unwrap())
        .args(myself("host"))
        .env(PART, env.path(""))
        .stdin(Stdio::null());
    let build = env.command(&["--network=sandbox", "--no-cache"]);
    host.env("LAYERCAKE_ROOT", env.path("store"))
        .env("LAYERCAKE_BIN", build.get_program())
        .env("LAYERCAKE_TEST_ARGS", arguments(&build));
    let said = env.said(host.output().unwrap());
    let text = format!("{}{}", said.stdout, said.stderr);
    if text.contains("no such host here") {
        eprintln!("SKIPPED: {text}");
        return;
    }
    assert!(said.ok, "{text}");
    assert!(
        text.contains("the host saw nothing but what it should"),
        "{text}"
    );
}

fn arguments(command: &Command) -> String {
    let arguments = command.get_args().map(|a| a.to_str().unwrap().to_owned());
    serde_json::to_string(&arguments.collect::<Vec<_>>()).unwrap()
}

#[test]
#[ignore = "a part of another test"]
fn host() {
    let Ok(directory) = std::env::var(PART) else {
        return;
    };
    if !set_up(Path::new(&directory)) {
        println!("no such host here");
        return;
    }
    static WRONG: AtomicUsize = AtomicUsize::new(0);
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    serve(OUTSIDE, |_| {});
    serve(ON_LOOPBACK, |from| {
        println!("!!! the loopback of the host was reached by TCP from {from}");
        WRONG.fetch_add(1, Ordering::SeqCst);
    });
    let loopback = UdpSocket::bind(ON_LOOPBACK).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, from)) = loopback.recv_from(&mut buffer) {
            println!("!!! the loopback of the host was reached by UDP from {from}");
            WRONG.fetch_add(1, Ordering::SeqCst);
        }
    });
    let names = UdpSocket::bind(NAME_SERVER).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((length, from)) = names.recv_from(&mut buffer) {
            ASKED.fetch_add(1, Ordering::SeqCst);
            names.send_to(&buffer[..length], from).unwrap();
        }
    });
    let arguments = std::env::var("LAYERCAKE_TEST_ARGS").unwrap();
    let arguments: Vec<String> = serde_json::from_str(&arguments).unwrap();
    let build = layercake().args(arguments).status().unwrap();
    assert!(build.success());
    assert_eq!(WRONG.load(Ordering::SeqCst), 0);
    assert_eq!(
        ASKED.load(Ordering::SeqCst),
        2,
        "questions to the name server"
    );
    println!("the host saw nothing but what it should");
}

/// Gives the empty network namespace, in which this runs, what a host has.
fn set_up(directory: &Path) -> bool {
    let resolv_conf = directory.join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n").unwrap();
    let commands = format!(
        "ip link set lo up && ip link add h0 type veth peer name h1 && \
         ip addr add {HOST}/24 dev h0 && ip link set h0 up && ip link set h1 up && \
         ip route add default via {GATEWAY} && ip addr add 10.78.0.1/32 dev lo && \
         mount --bind {} /etc/resolv.conf",
        resolv_conf.display()
    );
    let status = Command::new("sh").args(["-c", &commands]).status();
    status.is_ok_and(|status| status.success())
}

/// Greets everybody who connects.
fn serve(address: &str, seen: impl Fn(SocketAddr) + Send + 'static) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            seen(stream.peer_addr().unwrap());
            // The client may be gone.
            let _ = stream.write_all(b"hello");
        }
    });
}

#[test]
#[ignore = "a part of another test"]
fn client() {
    if std::env::var(PART).is_err() {
        return;
    }
    let mut greeting = String::new();
    let mut outside = TcpStream::connect(OUTSIDE).unwrap();
    outside.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "hello");

    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    let server = resolv_conf.trim().strip_prefix("nameserver ").unwrap();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((server, 53)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(120)))
        .unwrap();
    socket.send(b"is there anybody?").unwrap();
    let mut answer = [0; 100];
    assert_eq!(socket.recv(&mut answer).unwrap(), 17);

    // As loopback, as the gateway, as an address that both have; by the device of the step.
    for address in ["127.0.0.1", GATEWAY, HOST, "0.0.0.0"] {
        let address: SocketAddr = format!("{address}:8081").parse().unwrap();
        let plain = TcpStream::connect_timeout(&address, Duration::from_secs(1));
        assert!(plain.is_err(), "connected to {address}");
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        setsockopt(&socket.as_fd(), BindToDevice, &"eth0".into()).unwrap();
        // Whether it is refused or lost is told by the host.
        let sent = socket.send_to(b"boo", address);
        if address.ip().is_loopback() {
            assert!(sent.is_err(), "sent to {address} by the device");
        }
    }
    // Raw sockets would get around all of this.
    let raw = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Packet,
        nix::sys::socket::SockType::Raw,
        nix::sys::socket::SockFlag::empty(),
        None,
    );
    assert!(raw.is_err(), "a raw socket was opened");
    println!("the step saw nothing but what it should");
}

#[test]
fn two_sandboxed_steps_run_at_once() {
    if !can_run() || !pasta_works() {
        return;
    }
    let env = Env::new();
    // Each waits for the other; a wait in vain is ended by the limit.
    let meet = |own: &str, other: &str| {
        format!(
            "FROM busybox AS {own}\nRUN --mount=type=cache,target=/m touch /m/{own}; \
             until stat /m/{other}; do sleep 0.05; done; touch /{own}\n"
        )
    };
    env.dockerfile(&format!(
        "{}{}FROM busybox\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
        meet("one", "two"),
        meet("two", "one"),
    ));
    env.build(&["--network=sandbox", "--step-timeout=300s"])
        .success();
}

/// Every process below `root`, with its name.
fn descendants(root: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // `pid (name) state parent …`
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((head, tail)) = stat.rsplit_once(')') else {
            continue;
        };
        let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
        let parent = tail.split_whitespace().nth(1).and_then(|p| p.parse().ok());
        found.push((pid, parent.unwrap_or(0), name));
    }
    let mut family = vec![root];
    let mut result = Vec::new();
    while let Some(parent) = family.pop() {
        for (pid, _, name) in found.iter().filter(|(_, p, _)| *p == parent) {
            family.push(*pid);
            result.push((*pid, name.clone()));
        }
    }
    result
}

#[test]
fn pasta_ends_with_its_step_and_with_a_killed_build() {
    if !can_run() || !pasta_works() {
        return;
    }
    let env = Env::new();
    // The name of the file tells when the second step runs: the pasta of the first must be gone.
    env.dockerfile(
        "FROM busybox\nRUN true\nRUN --mount=type=cache,target=/m touch /m/x; sleep 600\n",
    );
    let mut command = env.command(&["--network=sandbox"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut build = command.spawn().unwrap();
    let family = || descendants(build.id());
    let in_step = || family().iter().any(|(_, name)| name == "sleep");
    assert!(eventually(in_step), "{:?}", family());
    let family = family();
    // "passt.avx2" is the name of one that fits the processor.
    let pastas = family
        .iter()
        .filter(|(_, name)| name.starts_with("pasta") || name.starts_with("passt"));
    let pastas: Vec<u32> = pastas.map(|(pid, _)| *pid).collect();
    assert_eq!(pastas.len(), 1, "{family:?}");
    build.kill().unwrap();
    build.wait().unwrap();
    // One that has ended has no command line, though nobody may wait for orphans here.
    let line = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let gone = eventually(|| pastas.iter().all(|pid| line(pid).is_empty()));
    assert!(gone, "pasta outlived a killed build");
}

#[test]
fn what_a_sandbox_lacks_is_named() {
    if !has_containers() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN true\n");
    if isolation() == "root" {
        // Real root needs no programs to enter its namespaces.
        let mut command = env.command(&["--network=sandbox"]);
        command.env("PATH", env.path("nothing"));
        let said = env.said(command.output().unwrap());
        said.failure(4).says("pasta").says("passt");
        env.build(&["--network=sandbox", "--isolation=chroot"])
            .failure(4)
            .says("--network=sandbox is not possible with chroot isolation");
    }
    env.dockerfile("FROM busybox\nRUN --network=sandbox true\n");
    env.build(&[]).failure(3).says("invalid network mode");
    env.dockerfile("FROM busybox\nRUN true\n");
    env.build(&["--network=bridge"])
        .failure(2)
        .says("--network bridge: not one of default, host, none, sandbox");
}

#[test]
fn r34_steps_with_another_network_are_other_steps() {
    if !can_run() || !pasta_works() {
        return;
    }
    let env = Env::new();
    env.dockerfile("FROM busybox\nRUN ls /proc/sys/net/ipv4/conf > /devices\n");
    env.build(&["--network=none"]).success();
    assert!(!env.image().text("devices").contains("eth0"));
    let sandboxed = env.build(&["--network=sandbox"]).success();
    assert_eq!(sandboxed.executed(), 1);
    assert!(env.image().text("devices").contains("eth0"));
    assert_eq!(env.build(&["--network=sandbox"]).success().executed(), 0);
}
