//! Users and groups by the files of the image, never by those of the host (rule O11).

use std::io::Read;

use store::tree::Kind;
use store::view::View;

use super::tree::LayerFiles;

/// More than this in `/etc/passwd` or `/etc/group` is refused, as BuildKit does.
const MAX_FILE: u64 = 10 << 20;

/// Who owns what is copied.
pub trait UserLookup {
    /// The ids for a `--chown` value (rules O01, O11) or for the owner of a `WORKDIR` (rule W02):
    /// `user`, `user:group`, names or numbers. A number without group is the group as well; an
    /// empty group is 0.
    ///
    /// # Errors
    /// [`UserError`] when the files of the image cannot be used, and for names that are not in
    /// them, unless `unknown` allows that.
    fn owner(&self, spec: &str, unknown: Unknown) -> Result<Ownership, UserError>;
}

/// What a name stands for that the image does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Nothing: the manual of `--chown` says that the build fails, and whoever names an owner
    /// wants no other. BuildKit takes root and says nothing (rule O02).
    Refused,
    /// Root, and an unknown group that of the user; both are told.
    Root,
}

/// What became of an owner as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ownership {
    pub owner: Owner,
    /// Whole sentences about names the image does not know.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    #[error("unable to find user {name}: no matching entries in passwd file of the image")]
    UnknownUser { name: String },
    #[error("unable to find group {name}: no matching entries in group file of the image")]
    UnknownGroup { name: String },
    /// Rule C34.
    #[error("user or group {name:?} cannot be looked up under --link: use numbers")]
    NameUnderLink { name: String },
    /// Nothing has been put into the image yet, not even an empty layer.
    #[error("user or group {name:?} cannot be looked up in an empty image: use numbers")]
    NameOnScratch { name: String },
    #[error("{path} is not a regular file")]
    NotAFile { path: &'static str },
    #[error("{path} exceeds {MAX_FILE} bytes")]
    TooLarge { path: &'static str },
    #[error("read {path}")]
    Io {
        path: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Links(#[from] store::view::TooManyLinks),
}

impl UserError {
    /// Whether the name is unknown, rather than the files unreadable.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::UnknownUser { .. } | Self::UnknownGroup { .. })
    }
}

/// Whom a `RUN` runs as (rules W10, W11, W13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// `gid` first, then the supplementary groups.
    pub groups: Vec<u32>,
    /// For `HOME`, when the environment does not set it; `/` when nobody says.
    pub home: String,
}

/// The `/etc/passwd` and `/etc/group` of a tree.
pub struct ImageUsers<'a> {
    view: &'a View,
    files: &'a dyn LayerFiles,
}

impl std::fmt::Debug for ImageUsers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageUsers")
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl UserLookup for ImageUsers<'_> {
    fn owner(&self, spec: &str, unknown: Unknown) -> Result<Ownership, UserError> {
        let (user, group) = split(spec);
        if self.view.layers().is_empty() {
            return by_number(spec, |name| UserError::NameOnScratch { name });
        }
        let mut made = Ownership::default();
        let Ownership { owner, warnings } = &mut made;
        match number(user) {
            Some(id) => *owner = Owner { uid: id, gid: id },
            None => match self.users()?.into_iter().find(|u| u.name == user) {
                Some(User { uid, gid, .. }) => *owner = Owner { uid, gid },
                None => {
                    let error = UserError::UnknownUser { name: user.into() };
                    if unknown == Unknown::Refused {
                        return Err(error);
                    }
                    warnings.push(format!("{error}: taken for root"));
                }
            },
        }
        match group.map(|group| (group, number(group))) {
            None => {}
            Some((_, Some(id))) => owner.gid = id,
            Some((name, None)) => match self.group_named(name) {
                Ok(id) => owner.gid = id,
                Err(error) if error.is_unknown() && unknown == Unknown::Root => {
                    warnings.push(format!("{error}: {} is taken instead", owner.gid));
                }
                Err(error) => return Err(error),
            },
        }
        Ok(made)
    }
}

impl<'a> ImageUsers<'a> {
    #[must_use]
    pub fn new(view: &'a View, files: &'a dyn LayerFiles) -> Self {
        Self { view, files }
    }

    /// Resolves the `USER` of a `RUN` (rules W10-W13); `""` is root. Numbers without an entry are
    /// themselves, with group 0; two numbers are taken as they are. A group that is given replaces
    /// all other groups. `HOME` is that of the first entry with the id, whatever its name.
    ///
    /// # Errors
    /// [`UserError`], for names nobody has as well (rule W12).
    pub fn identity(&self, spec: &str) -> Result<Identity, UserError> {
        let (user, group) = split(if spec.is_empty() { "0" } else { spec });
        let users = self.users()?;
        if let (Some(uid), Some(gid)) = (number(user), group.and_then(number)) {
            let home = home_of(users.iter().find(|u| u.uid == uid));
            return Ok(Identity {
                uid,
                gid,
                groups: vec![gid],
                home,
            });
        }
        let group = group.filter(|group| !group.is_empty());
        let id = if user.is_empty() {
            Some(0)
        } else {
            plain_number(user)
        };
        let entry = users
            .iter()
            .find(|u| id.map_or(u.name == user, |id| u.uid == id));
        let uid = match (entry, id) {
            (Some(entry), _) => entry.uid,
            (None, Some(id)) => id,
            (None, None) => return Err(UserError::UnknownUser { name: user.into() }),
        };
        let gid = match group {
            None => entry.map_or(0, |entry| entry.gid),
            Some(group) => match plain_number(group) {
                Some(gid) => gid,
                None => self.group_named(group)?,
            },
        };
        let mut groups = vec![gid];
        if let (None, Some(entry)) = (group, entry) {
            let groups_of = self.groups()?;
            let mine = groups_of.iter().filter(|g| g.members.contains(&entry.name));
            for gid in mine.map(|g| g.gid) {
                if !groups.contains(&gid) {
                    groups.push(gid);
                }
            }
        }
        let home = home_of(users.iter().find(|u| u.uid == uid));
        Ok(Identity {
            uid,
            gid,
            groups,
            home,
        })
    }

    fn group_named(&self, name: &str) -> Result<u32, UserError> {
        let group = self.groups()?.into_iter().find(|g| g.name == name);
        group
            .map(|g| g.gid)
            .ok_or_else(|| UserError::UnknownGroup { name: name.into() })
    }

    fn users(&self) -> Result<Vec<User>, UserError> {
        let text = self.text("/etc/passwd")?;
        let user = |fields: Vec<&str>| User {
            name: field(&fields, 0).into(),
            uid: id_field(&fields, 2),
            gid: id_field(&fields, 3),
            home: field(&fields, 5).into(),
        };
        Ok(records(&text).map(user).collect())
    }

    fn groups(&self) -> Result<Vec<Group>, UserError> {
        let text = self.text("/etc/group")?;
        let group = |fields: Vec<&str>| Group {
            name: field(&fields, 0).into(),
            gid: id_field(&fields, 2),
            members: field(&fields, 3).split(',').map(Into::into).collect(),
        };
        let comment = |fields: &Vec<&str>| field(fields, 0).starts_with('#');
        let records = records(&text).filter(|fields| !comment(fields));
        Ok(records.map(group).collect())
    }

    /// Empty when there is no such file (rule O03).
    fn text(&self, path: &'static str) -> Result<String, UserError> {
        let resolved = self.view.resolve(path.as_bytes(), true)?;
        let Some(found) = self.view.lookup(&resolved.path) else {
            return Ok(String::new());
        };
        let file = self
            .view
            .file_of(found)
            .ok_or(UserError::NotAFile { path })?;
        let Kind::File { size, .. } = file.entry.kind else {
            return Err(UserError::NotAFile { path });
        };
        if size > MAX_FILE {
            return Err(UserError::TooLarge { path });
        }
        let read = || {
            let content = self.files.content(file.layer, &file.entry.path)?;
            let mut bytes = Vec::new();
            content.open()?.take(MAX_FILE).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| UserError::Io { path, source })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Lines as their `:`-separated fields; blank ones left out. `/etc/passwd` knows no comments.
fn records(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| line.split(':').collect())
}

/// Lines may be too short (rule M17).
fn field<'a>(fields: &[&'a str], number: usize) -> &'a str {
    fields.get(number).copied().unwrap_or_default()
}

/// What is missing or no number is 0 for BuildKit, and so here (rule M17).
fn id_field(fields: &[&str], number: usize) -> u32 {
    field(fields, number).parse().unwrap_or_default()
}

fn home_of(user: Option<&User>) -> String {
    user.map(|u| u.home.clone())
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/".into())
}

fn split(spec: &str) -> (&str, Option<&str>) {
    match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    }
}

/// BuildKit takes `root`, and the empty user of `:5`, for 0 without looking.
fn number(text: &str) -> Option<u32> {
    if text.is_empty() || text == "root" {
        Some(0)
    } else {
        plain_number(text)
    }
}

/// Ids above 2³¹-1 are not accepted by any of the peers.
fn plain_number(text: &str) -> Option<u32> {
    text.parse::<i32>()
        .ok()
        .and_then(|id| u32::try_from(id).ok())
}

/// For `--link`, whose result may not depend on the image (rule C34): numbers only.
#[derive(Debug, Clone, Copy)]
pub struct NumbersOnly;

impl UserLookup for NumbersOnly {
    fn owner(&self, spec: &str, _: Unknown) -> Result<Ownership, UserError> {
        by_number(spec, |name| UserError::NameUnderLink { name })
    }
}

fn by_number(spec: &str, refuse: impl Fn(String) -> UserError) -> Result<Ownership, UserError> {
    let (user, group) = split(spec);
    let id = |text: &str| number(text).ok_or_else(|| refuse(text.to_owned()));
    let uid = id(user)?;
    let gid = group.map_or(Ok(uid), id)?;
    Ok(Ownership {
        owner: Owner { uid, gid },
        warnings: Vec::new(),
    })
}
