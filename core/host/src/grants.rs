//! What plugins may ask of Haggle: the manifest asks, the operator allows, the linker offers what both name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// One interface that a plugin may import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names are those of the contract's interfaces")]
pub enum Capability {
    Log,
    Metrics,
    Config,
    Kv,
    KvGlobal,
    Messages,
    Conversations,
    Participants,
    Users,
    Events,
    Notifications,
    Client,
    Timers,
}

impl Capability {
    /// Every capability, in the order of the contract.
    pub const ALL: [Capability; 13] = [
        Capability::Log,
        Capability::Metrics,
        Capability::Config,
        Capability::Kv,
        Capability::KvGlobal,
        Capability::Messages,
        Capability::Conversations,
        Capability::Participants,
        Capability::Users,
        Capability::Events,
        Capability::Notifications,
        Capability::Client,
        Capability::Timers,
    ];

    /// The name in manifests and in the contract: `kv-global`.
    pub fn as_str(self) -> &'static str {
        match self {
            Capability::Log => "log",
            Capability::Metrics => "metrics",
            Capability::Config => "config",
            Capability::Kv => "kv",
            Capability::KvGlobal => "kv-global",
            Capability::Messages => "messages",
            Capability::Conversations => "conversations",
            Capability::Participants => "participants",
            Capability::Users => "users",
            Capability::Events => "events",
            Capability::Notifications => "notifications",
            Capability::Client => "client",
            Capability::Timers => "timers",
        }
    }

    /// Answered by the engine, not by the host alone: a call needs a scope.
    pub(crate) fn needs_engine(self) -> bool {
        !matches!(self, Capability::Log | Capability::Metrics | Capability::Config)
    }

    /// All names, for error texts.
    pub(crate) fn names() -> String {
        Capability::ALL.map(Capability::as_str).join(", ")
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Capability {
    type Err = String;

    fn from_str(name: &str) -> Result<Capability, String> {
        let found = Capability::ALL.into_iter().find(|capability| capability.as_str() == name);
        found.ok_or_else(|| format!("there is no capability `{name}`; known: {}", Capability::names()))
    }
}

/// What the operator allows. It can only take away: a plugin gets what its manifest asks for *and* this allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// For plugins without a line of their own.
    pub allow: BTreeSet<Capability>,
    /// Per plugin id.
    pub plugins: BTreeMap<String, BTreeSet<Capability>>,
}

impl Default for Policy {
    /// Allows everything that a manifest asks for.
    fn default() -> Policy {
        Policy {
            allow: Capability::ALL.into(),
            plugins: BTreeMap::new(),
        }
    }
}

impl Policy {
    /// What this plugin may have.
    pub fn of(&self, plugin: &str) -> &BTreeSet<Capability> {
        self.plugins.get(plugin).unwrap_or(&self.allow)
    }
}

/// A manifest's grants against what the component imports and the operator allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Review {
    /// Imported, asked for and allowed.
    pub(crate) granted: BTreeSet<Capability>,
    /// Imported, but the manifest does not ask for them.
    pub(crate) not_asked: Vec<Capability>,
    /// Imported and asked for, but the operator does not allow them.
    pub(crate) refused: Vec<Capability>,
}

impl Review {
    /// Sorts every import into one of the three.
    pub(crate) fn of(imports: &BTreeSet<Capability>, asked: &BTreeSet<Capability>, allowed: &BTreeSet<Capability>) -> Review {
        let mut review = Review::default();
        for &capability in imports {
            if !asked.contains(&capability) {
                review.not_asked.push(capability);
            } else if !allowed.contains(&capability) {
                review.refused.push(capability);
            } else {
                review.granted.insert(capability);
            }
        }
        review
    }

    /// What is missing, as sentences for people.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.not_asked.is_empty() {
            let lines: Vec<_> = self.not_asked.iter().map(|capability| format!("{capability} = true")).collect();
            problems.push(format!(
                "the code imports {} without asking: add to [grants] in plugin.toml: {}",
                join(&self.not_asked),
                lines.join(", ")
            ));
        }
        if !self.refused.is_empty() {
            problems.push(format!("the operator's policy does not allow {}", join(&self.refused)));
        }
        problems
    }
}

fn join(capabilities: &[Capability]) -> String {
    capabilities.iter().map(|capability| capability.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[Capability]) -> BTreeSet<Capability> {
        names.iter().copied().collect()
    }

    #[test]
    fn only_what_both_sides_name_is_granted() {
        use Capability::{Kv, Log, Users};
        let review = Review::of(&set(&[Kv, Log, Users]), &set(&[Kv, Log]), &set(&[Log, Users]));
        assert_eq!(
            review,
            Review {
                granted: set(&[Log]),
                not_asked: vec![Users],
                refused: vec![Kv]
            }
        );
        let problems = review.problems().join("; ");
        assert!(problems.contains("users = true") && problems.contains("does not allow kv"), "{problems}");
    }

    #[test]
    fn what_is_not_imported_is_not_granted() {
        let review = Review::of(&set(&[]), &set(&[Capability::Kv]), &set(&Capability::ALL));
        assert!(review.granted.is_empty() && review.problems().is_empty());
    }

    #[test]
    fn names_come_back() {
        for capability in Capability::ALL {
            assert_eq!(capability.as_str().parse(), Ok(capability));
        }
        assert!("files".parse::<Capability>().unwrap_err().contains("kv-global"));
    }
}
