//! Names of operating systems and architectures as `--platform` and `FROM --platform` take them:
//! those of containerd's `platforms` package, on which BuildKit relies.

const SYSTEMS: [&str; 17] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

const ARCHITECTURES: [&str; 24] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

/// Whether a normalised name alone means an operating system.
#[must_use]
pub fn is_known_system(name: &str) -> bool {
    SYSTEMS.contains(&name)
}

/// Whether a normalised name alone means an architecture.
#[must_use]
pub fn is_known_architecture(name: &str) -> bool {
    ARCHITECTURES.contains(&name)
}

/// The usual name of an operating system; Linux where none is given.
#[must_use]
pub fn normalise_system(os: &str) -> String {
    match os.to_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        "" => "linux".to_owned(),
        other => other.to_owned(),
    }
}

/// The usual names of an architecture and its variant; `""` for the variant that goes without
/// saying.
#[must_use]
pub fn normalise_architecture(architecture: &str, variant: &str) -> (String, String) {
    let variant = variant.to_lowercase();
    let (architecture, variant) = match (architecture.to_lowercase().as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", other) => ("arm64", other),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (other, variant) => return (other.to_owned(), variant.to_owned()),
    };
    (architecture.to_owned(), variant.to_owned())
}
