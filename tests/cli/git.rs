//! `ADD` of git repositories.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::server::{Answer, Server, git_backend};
use crate::support::{Env, at_home};

/// Whether there is git; says so once.
fn has_git() -> bool {
    let said = Command::new("git").arg("--exec-path").output();
    let path = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
    // Not everywhere in the package of git itself.
    let found = path.is_ok_and(|path| Path::new(path.trim()).join("git-http-backend").exists());
    if !found {
        eprintln!("SKIPPED: no git, or none that serves over HTTP");
    }
    found
}

/// A repository to commit to.
struct Repository(PathBuf);

impl Repository {
    fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        let repository = Self(path);
        repository.git(&["init", "--quiet", "--initial-branch=trunk"]);
        repository
    }

    #[track_caller]
    fn git(&self, args: &[&str]) -> String {
        let output = at_home(Command::new("git"))
            .current_dir(&self.0)
            .args([
                "-c",
                "user.name=T",
                "-c",
                "user.email=t@e.x",
                "-c",
                "protocol.file.allow=always",
            ])
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_DATE", "1000000000 +0000")
            .env("GIT_COMMITTER_DATE", "1000000000 +0000")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Commits everything; returns the commit.
    fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }
}

/// Repositories below a directory, over smart HTTP.
fn serve(root: &Path) -> Server {
    let root = root.to_path_buf();
    Server::start(move |request| git_backend(&root, request))
}

/// `r.git` with two commits on the branch `trunk`, the first of which has the annotated tag `v1`.
fn sample(env: &Env) -> (Repository, [String; 2]) {
    let repository = Repository::new(env.path("repositories/r.git"));
    repository.write("f", "one");
    repository.write("dir/sub/g", "g");
    repository.write("run.sh", "#!/bin/sh\n");
    let script = repository.0.join("run.sh");
    fs::set_permissions(script, fs::Permissions::from_mode(0o700)).unwrap();
    symlink("f", repository.0.join("link")).unwrap();
    symlink("/etc", repository.0.join("out")).unwrap();
    let first = repository.commit("first");
    repository.git(&["tag", "--annotate", "--message=x", "v1"]);
    repository.write("f", "two");
    let second = repository.commit("second");
    (repository, [first, second])
}

#[test]
fn d19_files_of_the_default_branch() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    let (_, [_, second]) = sample(&env);
    let server = serve(&env.path("repositories"));
    env.dockerfile(&format!("FROM scratch\nADD {} /r/\n", server.url("/r.git")));
    env.build(&[]).success().says(&format!("commit {second}"));
    let image = env.image();
    assert_eq!(image.text("r/f"), "two");
    assert_eq!(
        (image.file("r/f").mode, image.file("r/run.sh").mode),
        (0o644, 0o755)
    );
    assert_eq!(image.file("r/link").link.as_deref(), Some("f"));
    assert_eq!(image.file("r/f").owner, (0, 0));
    // Rule D20, but the same whenever it is built: docs/design/0003.
    assert_eq!(image.file("r/f").mtime, 315_619_200);
    assert!(!image.has("r/.git"));
}

#[test]
fn g02_refs_and_directories() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    let (repository, [first, second]) = sample(&env);
    repository.git(&["branch", "other", "v1"]);
    let server = serve(&env.path("repositories"));
    let build = |suffix: &str| {
        let url = server.url("/r.git");
        env.dockerfile(&format!("FROM scratch\nADD {url}{suffix} /r/\n"));
        env.build(&[])
    };
    for (suffix, text) in [
        ("#v1", "one"),
        ("#trunk", "two"),
        ("#refs/heads/other", "one"),
        ("?branch=other", "one"),
        ("?tag=v1", "one"),
        (&format!("#{first}"), "one"),
        (&format!("#{}", &first[..9]), "one"),
        (&format!("?commit={second}"), "two"),
    ] {
        build(suffix).success();
        assert_eq!(env.image().text("r/f"), text, "{suffix}");
    }
    build("#v1:dir/sub").success();
    assert_eq!(env.image().text("r/g"), "g");
    assert!(!env.image().has("r/f"));
    build("#nowhere")
        .failure(1)
        .says("does not contain ref nowhere");
    build("#0000000000")
        .failure(1)
        .says("does not contain ref 0000000000");
    build("#:no/dir")
        .failure(1)
        .says("\"no/dir\" is no directory");
    // Neither a symlink nor a file, nor a way out.
    build("#:out").failure(1).says("is no directory");
    build("#:f").failure(1).says("is no directory");
    build("#:../..").failure(3).says("cannot be a directory");
    build("?tag=v1#trunk")
        .failure(3)
        .says("conflicting values for the ref");
}

#[test]
fn g04_the_commit_is_the_key() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    let (repository, [first, _]) = sample(&env);
    let server = serve(&env.path("repositories"));
    let url = server.url("/r.git");
    env.dockerfile(&format!("FROM scratch\nADD {url} /r/\n"));
    let before = env.build(&[]).success();
    server.requests();
    let again = env.build(&[]).success();
    assert_eq!((again.executed(), again.digest()), (0, before.digest()));
    assert!(
        !server.requests().is_empty(),
        "a branch is resolved by every build"
    );
    repository.write("f", "three");
    repository.commit("third");
    assert_eq!(env.build(&[]).success().executed(), 2);
    assert_eq!(env.image().text("r/f"), "three");
    // What a whole commit is needs nobody to be asked.
    env.dockerfile(&format!("FROM scratch\nADD {url}#{first} /r/\n"));
    env.build(&[]).success();
    server.requests();
    assert_eq!(env.build(&[]).success().executed(), 0);
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn d15_commits_are_verified() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    let (repository, [first, second]) = sample(&env);
    let tag = repository.git(&["rev-parse", "v1"]);
    let server = serve(&env.path("repositories"));
    let build = |reference: &str, sum: &str| {
        let url = server.url(reference);
        env.dockerfile(&format!("FROM scratch\nADD --checksum={sum} {url} /r/\n"));
        env.build(&[])
    };
    build("/r.git", &second).success();
    build("/r.git#v1", &first[..12]).success();
    build("/r.git#v1", &tag).success();
    let said = build("/r.git", &first).failure(1);
    said.says(&format!("expected checksum to match {first}, got {second}"));
    build("/r.git", "xyz")
        .failure(3)
        .says("cannot be a checksum");
}

#[test]
fn d19_keep_git_dir_is_the_same_every_time() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    let (_, [first, _]) = sample(&env);
    let server = serve(&env.path("repositories"));
    let url = server.url("/r.git#v1");
    let text = format!("FROM scratch\nADD --keep-git-dir=true {url} /r/\n");
    env.dockerfile(&text);
    let one = env.build(&[]).success();
    let other_env = Env::bare();
    other_env.dockerfile(&text);
    assert_eq!(other_env.build(&[]).success().digest(), one.digest());
    let image = env.image();
    assert_eq!(image.text("r/.git/HEAD").trim(), first);
    let config = image.text("r/.git/config");
    assert!(config.contains(&server.url("/r.git")), "{config}");
    // It works as a repository: nothing differs from the commit, and the tag is there.
    let copy = Repository(env.path("copy"));
    fs::create_dir(&copy.0).unwrap();
    for (path, file) in &image.files {
        let Some(name) = path.strip_prefix("r/") else {
            continue;
        };
        let path = copy.0.join(name);
        match file.kind {
            tar::EntryType::Directory => fs::create_dir_all(path).unwrap(),
            tar::EntryType::Symlink => symlink(file.link.as_ref().unwrap(), path).unwrap(),
            _ => {
                fs::write(&path, &file.content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).unwrap();
            }
        }
    }
    assert_eq!(copy.git(&["status", "--porcelain"]), "");
    assert_eq!(copy.git(&["describe"]), "v1");
    assert_eq!(copy.git(&["fsck"]), "");
}

#[test]
fn d20_commit_time_when_asked() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    sample(&env);
    let server = serve(&env.path("repositories"));
    let url = server.url("/r.git?mtime=commit");
    env.dockerfile(&format!("FROM scratch\nADD {url} /r/\n"));
    env.build(&[]).success();
    assert_eq!(env.image().file("r/f").mtime, 1_000_000_000);
}

#[test]
fn d19_submodules() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    let (_, [first, second]) = sample(&env);
    let outer = Repository::new(env.path("repositories/outer.git"));
    outer.git(&["submodule", "--quiet", "add", "../r.git", "inner"]);
    Repository(outer.0.join("inner")).git(&["checkout", "--quiet", &first]);
    outer.git(&[
        "config",
        "--file=.gitmodules",
        "submodule.inner.url",
        "../r.git",
    ]);
    outer.commit("with a module");
    let server = serve(&env.path("repositories"));
    let url = server.url("/outer.git");
    env.dockerfile(&format!(
        "FROM scratch\nADD {url} /with/\nADD {url}?submodules=0 /without/\n"
    ));
    env.build(&[]).success();
    let image = env.image();
    assert_eq!(image.text("with/inner/f"), "one");
    assert!(image.has("without/inner") && !image.has("without/inner/f"));
    let has_git_files = image
        .files
        .keys()
        .any(|path| path.split('/').any(|part| part == ".git"));
    assert!(!has_git_files);
    // What is in the store is not fetched again, though the files have to be made again.
    let to_inner = || {
        let requests = server.requests();
        requests
            .iter()
            .filter(|r| r.path.starts_with("/r.git"))
            .count()
    };
    assert!(to_inner() > 0);
    outer.write("other", "new");
    outer.commit("the same module");
    env.build(&[]).success();
    assert_eq!(to_inner(), 0);
    let image = env.image();
    assert_eq!(image.text("with/inner/f"), "one");
    assert_eq!(image.text("with/other"), "new");
    Repository(outer.0.join("inner")).git(&["checkout", "--quiet", &second]);
    outer.commit("another commit of the module");
    env.build(&[]).success();
    assert_eq!(env.image().text("with/inner/f"), "two");
    // A repository cannot bring in what is on this machine.
    let local = env.path("repositories/r.git").display().to_string();
    outer.git(&[
        "config",
        "--file=.gitmodules",
        "submodule.inner.url",
        &local,
    ]);
    outer.commit("with a local module");
    env.build(&[])
        .failure(1)
        .says("transport 'file' not allowed");
}

#[test]
fn secrets_authenticate_to_git_servers() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    sample(&env);
    let root = env.path("repositories");
    let server = Server::start(move |request| match request.header("authorization") {
        // x-access-token:g1t-t0ken-of-the-test
        Some("Basic eC1hY2Nlc3MtdG9rZW46ZzF0LXQwa2VuLW9mLXRoZS10ZXN0") => {
            git_backend(&root, request)
        }
        _ => Answer::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    env.dockerfile(&format!("FROM scratch\nADD {} /r/\n", server.url("/r.git")));
    let said = env.build(&[]).failure(1);
    said.says("could not read Username").says("GIT_AUTH_TOKEN");
    fs::write(env.path("token"), "g1t-t0ken-of-the-test\n").unwrap();
    let host = server.url("").replace("http://", "");
    for name in [
        "GIT_AUTH_TOKEN".to_owned(),
        format!("GIT_AUTH_TOKEN.{host}"),
    ] {
        let secret = format!("id={name},src={}", env.path("token").display());
        env.build(&["--secret", &secret]).success();
    }
    // The same in the URL, which nobody gets to see.
    let url = server
        .url("/r.git")
        .replace("//", "//x-access-token:g1t-t0ken-of-the-test@");
    env.dockerfile(&format!(
        "FROM scratch\nADD --keep-git-dir=true {url} /r/\n"
    ));
    env.build(&[]).success().does_not_say("g1t-t0ken");
    assert!(!env.image().text("r/.git/config").contains("g1t-t0ken"));
}

#[test]
fn servers_of_plain_files_are_cloned_whole() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    let (repository, _) = sample(&env);
    repository.git(&["update-server-info"]);
    let root = env.path("repositories/r.git/.git");
    let server = Server::start(move |request| {
        let path = request.path.trim_start_matches("/r.git/");
        match fs::read(root.join(path)) {
            Ok(bytes) => Answer::new(200, bytes),
            Err(_) => Answer::new(404, ""),
        }
    });
    env.dockerfile(&format!(
        "FROM scratch\nADD {}#v1 /r/\n",
        server.url("/r.git")
    ));
    env.build(&[]).success();
    assert_eq!(env.image().text("r/f"), "one");
}

#[test]
fn builds_share_a_repository_at_the_same_time() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    sample(&env);
    let server = serve(&env.path("repositories"));
    let url = server.url("/r.git");
    env.dockerfile(&format!(
        "FROM scratch\nADD {url} /a/\nADD {url}#v1 /b/\nADD {url}#:dir /c/\n"
    ));
    let builds: Vec<_> = (0..3)
        .map(|number| {
            let out = env.path(&format!("out{number}"));
            let out = format!("type=oci,dest={},tar=false", out.display());
            let mut command = env.command(&["--output", &out]);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let said = builds
        .into_iter()
        .map(|b| env.said(b.wait_with_output().unwrap()).success());
    let digests: std::collections::BTreeSet<String> = said.map(|s| s.digest()).collect();
    assert_eq!(digests.len(), 1);
}

#[test]
fn repositories_with_sha256_names() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    let path = env.path("repositories/r.git");
    fs::create_dir_all(&path).unwrap();
    let repository = Repository(path);
    repository.git(&["init", "--quiet", "--object-format=sha256"]);
    repository.write("f", "long");
    assert_eq!(repository.commit("first").len(), 64);
    let server = serve(&env.path("repositories"));
    env.dockerfile(&format!("FROM scratch\nADD {} /r/\n", server.url("/r.git")));
    env.build(&[]).success();
    assert_eq!(env.image().text("r/f"), "long");
}

#[test]
fn a_configuration_of_the_user_is_not_used() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    sample(&env);
    let server = serve(&env.path("repositories"));
    env.dockerfile(&format!("FROM scratch\nADD {} /r/\n", server.url("/r.git")));
    let home = env.path("home");
    fs::create_dir(&home).unwrap();
    let hook = format!(
        "[core]\n\thooksPath = {0}\n\tfsmonitor = {0}/post-checkout\n",
        home.display()
    );
    fs::write(home.join(".gitconfig"), hook).unwrap();
    let script = home.join("post-checkout");
    fs::write(
        &script,
        format!("#!/bin/sh\ntouch {}/ran\n", home.display()),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let out = format!("type=oci,dest={},tar=false", env.path("out").display());
    let mut command = env.command(&["--output", &out]);
    command
        .env("HOME", &home)
        .env("GIT_DIR", "/nonexistent")
        .env("GIT_WORK_TREE", "/nowhere");
    env.said(command.stdin(Stdio::null()).output().unwrap())
        .success();
    assert!(!home.join("ran").exists());
}

#[test]
fn without_git_it_is_named() {
    let env = Env::bare();
    env.dockerfile("FROM scratch\nADD http://127.0.0.1:1/r.git /r/\n");
    let mut command = env.command(&[]);
    command.env("PATH", env.path("nothing"));
    env.said(command.stdin(Stdio::null()).output().unwrap())
        .failure(4)
        .says("git repositories need the program git");
}

/// Over ssh without a server: a program that stands in for ssh, notes what it is called with, and
/// runs the command here.
#[test]
fn ssh_is_called_without_configuration_and_with_known_hosts() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    sample(&env);
    let programs = env.path("programs");
    fs::create_dir(&programs).unwrap();
    let log = env.path("log");
    let script = format!(
        "#!/bin/sh\nfor a; do echo \"$a\"; done >> {0}\necho \"sock=$SSH_AUTH_SOCK\" >> {0}\n\
         for last; do :; done\nexec sh -c \"$last\"\n",
        log.display()
    );
    let ssh = programs.join("ssh");
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    let path = env.path("repositories/r.git");
    env.dockerfile(&format!(
        "FROM scratch\nADD git@host.invalid:{}#v1 /r/\n",
        path.display()
    ));
    let agent = env.path("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&agent).unwrap();
    let out = format!("type=oci,dest={},tar=false", env.path("out").display());
    let agent_flag = format!("default={}", agent.display());
    let mut command = env.command(&["--output", &out, "--ssh", &agent_flag]);
    let old = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{old}", programs.display()));
    command.env("HOME", "/home/of the test");
    env.said(command.stdin(Stdio::null()).output().unwrap())
        .success();
    assert_eq!(env.image().text("r/f"), "one");
    let log = fs::read_to_string(log).unwrap();
    let has = |line: &str| assert!(log.lines().any(|l| l == line), "{line:?} is not in:\n{log}");
    has("git@host.invalid");
    has("BatchMode=yes");
    has("StrictHostKeyChecking=accept-new");
    has(&format!("sock={}", agent.display()));
    let known = log
        .lines()
        .find(|l| l.starts_with("UserKnownHostsFile="))
        .unwrap();
    assert!(
        known.ends_with("\"/home/of the test/.ssh/known_hosts\""),
        "{known}"
    );
}

/// `layercake build` of the context at `url`.
fn build_at(env: &Env, url: &str, flags: &[&str]) -> crate::support::Said {
    let out = format!("type=oci,dest={},tar=false", env.path("out").display());
    let mut command = crate::support::layercake();
    command
        .args(["build", "--output", &out])
        .args(flags)
        .arg(url);
    if let Ok(base) = fs::read_to_string(env.path("base-path")) {
        command.arg(format!("--build-context=busybox=oci-layout://{base}"));
    }
    command
        .env("LAYERCAKE_ROOT", env.path("store"))
        .current_dir(env.path(""));
    env.said(command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn g01_a_repository_as_context() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    let (repository, [first, _]) = sample(&env);
    repository.write("Dockerfile", "FROM scratch\nCOPY . /all/\n");
    repository.write("dir/other.Dockerfile", "FROM scratch\nCOPY sub /sub/\n");
    repository.write(".dockerignore", "run.sh\n");
    let third = repository.commit("third");
    let server = serve(&env.path("repositories"));
    let url = server.url("/r.git");
    let first_time = build_at(&env, &url, &[])
        .success()
        .says(&format!("is at commit {third}"));
    let image = env.image();
    assert_eq!(image.text("all/f"), "two");
    // Rule I10: what is tracked is wanted.
    assert!(!image.has("all/.git") && image.has("all/run.sh"));
    let again = build_at(&env, &url, &[]).success();
    assert_eq!((again.executed(), again.digest()), (0, first_time.digest()));
    build_at(
        &env,
        &format!("{url}#trunk:dir"),
        &["-f", "other.Dockerfile"],
    )
    .success();
    assert_eq!(env.image().text("sub/g"), "g");
    build_at(
        &env,
        &url,
        &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"],
    )
    .success();
    assert!(env.image().has("all/.git/HEAD"));
    // The Dockerfile of another commit.
    build_at(&env, &format!("{url}#{first}"), &[])
        .failure(2)
        .says("Dockerfile");
    build_at(&env, &format!("{url}?color=red"), &[])
        .failure(2)
        .says("\"color\" cannot be a key of the query");
    build_at(&env, &url, &["-f", "../x"])
        .failure(2)
        .says("leads out of the context");
    build_at(&env, &url, &["--check"])
        .failure(2)
        .says("not implemented");
}

#[test]
fn g05_g09_repositories_as_named_contexts() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    let (repository, _) = sample(&env);
    repository.write(".dockerignore", "run.sh\n");
    repository.commit("third");
    let server = serve(&env.path("repositories"));
    let flag = format!("code={}#trunk", server.url("/r.git"));
    env.write("f", "local");
    env.dockerfile("FROM scratch\nCOPY --from=code . /r/\nCOPY f /f\n");
    env.build(&["--build-context", &flag]).success();
    let image = env.image();
    assert_eq!(
        (image.text("r/f").as_str(), image.text("f").as_str()),
        ("two", "local")
    );
    assert!(image.has("r/run.sh"));
    assert_eq!(
        env.build(&["--build-context", &flag]).success().executed(),
        0
    );
    server.requests();
    env.dockerfile("FROM scratch AS a\nCOPY --from=code . /r/\nFROM scratch\nCOPY f /f\n");
    env.build(&["--build-context", &flag]).success();
    assert_eq!(server.requests().len(), 0);
    env.dockerfile("FROM code\nCOPY f /g\n");
    env.build(&["--build-context", &flag]).success();
    let image = env.image();
    assert_eq!(
        (image.text("f").as_str(), image.text("g").as_str()),
        ("two", "local")
    );
    let late = format!("code={}?mtime=commit", server.url("/r.git"));
    env.dockerfile("FROM scratch\nCOPY --from=code . /r/\n");
    env.build(&["--build-context", &late])
        .failure(2)
        .says("mtime=commit of a context");
}

#[test]
fn a_context_shows_no_files_of_this_machine() {
    if !has_git() {
        return;
    }
    let env = Env::bare();
    let (repository, _) = sample(&env);
    fs::write(env.path("private"), "this is private\n").unwrap();
    symlink(env.path("private"), repository.0.join("Dockerfile")).unwrap();
    repository.commit("third");
    let server = serve(&env.path("repositories"));
    build_at(&env, &server.url("/r.git"), &[])
        .failure(2)
        .says("Dockerfile: is a symlink out of the context")
        .does_not_say("this is private");
}

#[test]
fn steps_run_on_a_repository_as_context() {
    if !has_git() || !crate::support::can_run() {
        return;
    }
    let env = Env::new();
    let (repository, _) = sample(&env);
    let text =
        "FROM busybox\nCOPY f /f\nRUN --mount=type=bind,target=/src cat /f /src/dir/sub/g > /out\n";
    repository.write("Dockerfile", text);
    repository.commit("third");
    let server = serve(&env.path("repositories"));
    let url = server.url("/r.git");
    build_at(&env, &url, &[]).success();
    assert_eq!(env.image().text("out"), "twog");
    server.requests();
    assert_eq!(build_at(&env, &url, &[]).success().executed(), 0);
}
