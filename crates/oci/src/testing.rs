//! A registry on the loopback interface for tests: HTTP/1.1, one thread for each connection, every
//! answer made by a function. Good manners towards real clients are no goal.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use store::digest::Digest;

use crate::image::Image;

/// Runs until it is dropped.
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    answer: Box<dyn Fn(&Received) -> Reply + Send + Sync>,
    received: Mutex<Vec<Received>>,
    ended: AtomicBool,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
}

impl Received {
    /// The first byte a `Range` header asks for.
    #[must_use]
    pub fn range_start(&self) -> Option<usize> {
        self.headers
            .get("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
}

impl Reply {
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
        }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Promises the whole body and closes the connection after `bytes` of it.
    #[must_use]
    pub const fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }
}

impl Registry {
    /// # Errors
    /// When no port can be listened on.
    pub fn start(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            received: Mutex::new(Vec::new()),
            ended: AtomicBool::new(false),
        });
        let of_thread = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if of_thread.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = of_thread.clone();
                // A client that goes away is none of the server's business.
                thread::spawn(move || drop(serve(&stream, &shared)));
            }
        });
        Ok(Self { address, shared })
    }

    /// `127.0.0.1:PORT`, to begin a reference with.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// All requests so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared
            .received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let Some(request) = receive(&mut BufReader::new(stream))? else {
        return Ok(());
    };
    let reply = (shared.answer)(&request);
    let is_head = request.method == "HEAD";
    shared
        .received
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(request);
    let mut head = format!(
        "HTTP/1.1 {} x\r\nConnection: close\r\nContent-Length: {}\r\n",
        reply.status,
        reply.body.len()
    );
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    if is_head {
        return Ok(());
    }
    stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())])
}

fn receive(reader: &mut impl BufRead) -> io::Result<Option<Received>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut parts = line.split(' ').map(str::to_owned);
    let (Some(method), Some(target)) = (parts.next(), parts.next()) else {
        return Ok(None);
    };
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Some(Received {
        method,
        target,
        headers,
    }))
}

/// Answers as a registry that has one image, under any tag, in the repository `name`. `Range`
/// headers are obeyed.
pub fn serving(
    name: &str,
    image: &Image,
    layers: Vec<(Digest, Vec<u8>)>,
) -> impl Fn(&Received) -> Reply + Send + Sync + use<> {
    let prefix = format!("/v2/{name}/");
    let manifest = (image.manifest_digest, image.manifest.clone());
    let blobs: HashMap<String, Vec<u8>> = layers
        .into_iter()
        .chain([(image.config_digest, image.config.clone())])
        .map(|(digest, bytes)| (digest.to_string(), bytes))
        .collect();
    move |request| {
        let missing = || {
            Reply::new(
                404,
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"not here"}]}"#,
            )
        };
        let Some(path) = request.target.strip_prefix(&prefix) else {
            return missing();
        };
        if let Some(digest) = path.strip_prefix("blobs/") {
            let Some(bytes) = blobs.get(digest) else {
                return missing();
            };
            return match request.range_start() {
                Some(start) => Reply::new(206, &bytes[start.min(bytes.len())..]).header(
                    "Content-Range",
                    &format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()),
                ),
                None => Reply::new(200, bytes.as_slice()),
            };
        }
        match path.strip_prefix("manifests/") {
            Some(name) if !name.contains(':') || name == manifest.0.to_string() => {
                Reply::new(200, manifest.1.as_slice())
                    .header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
                    .header("Docker-Content-Digest", &manifest.0.to_string())
            }
            _ => missing(),
        }
    }
}
