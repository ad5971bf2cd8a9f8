//! From the configuration to the policy that the broker is told: users and groups become numbers, and what is wrong
//! between settings is found.

use std::collections::{BTreeMap, BTreeSet};

use nix::unistd::{Group, User};
use serde::{Deserialize, Serialize};
use vgem_core::config::{Capacity as CoreCapacity, NamedDomain, Policy as CorePolicy, Rules, Uses};
use vgem_proto::describe::Description;
use vgem_proto::domains::{CGROUP_LEN, FIRST_NAMED, NAMED_MOST, is_domain_name};

use super::read::{Files, Mistake};
use super::{Capacity, Domain, May, Quota};
use crate::exit::{Exit, Failure};

/// Most bytes that the policy may be, as JSON: what a message holds, less room for the rest of `Setup`.
const JSON_LEN: usize = 48 * 1024;

/// What the broker is told of domains.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What a domain may hold.
    pub quota: Quota,
    /// What a domain may use.
    pub defaults: May,
    /// Domains with a name.
    pub domains: Vec<Named>,
    /// What all of them together may hold.
    pub capacity: Capacity,
    /// Who sees all of them.
    pub observers: BTreeSet<u32>,
}

/// A domain with a name, and who is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its control groups.
    #[serde(default)]
    pub cgroups: BTreeSet<String>,
    /// Its users.
    pub uids: BTreeSet<u32>,
    /// Its groups.
    pub groups: BTreeSet<u32>,
    /// Where it has other quotas than everybody.
    pub quota: Quota,
    /// What it may use.
    pub may: May,
}

impl Policy {
    /// The policy that files say.
    ///
    /// # Errors
    /// Users and groups that there are not, names and paths that are none, a user or control group of two domains, more promised than there is.
    pub fn of(files: &Files) -> Result<Self, Vec<Mistake>> {
        let config = &files.config;
        let mut mistakes = Vec::new();
        let domains: Vec<Named> =
            config.domains.iter().map(|(name, domain)| named(files, name, domain, &mut mistakes)).collect();
        for (n, domain) in domains.iter().enumerate() {
            for other in domains.iter().skip(n + 1) {
                if let Some(uid) = domain.uids.intersection(&other.uids).next() {
                    let what = format!("uid {uid} is in domain {}, too", domain.name);
                    mistakes.push(files.mistake(&place_of_uids(files, &other.name), what));
                }
                if let Some(cgroup) = domain.cgroups.intersection(&other.cgroups).next() {
                    let what = format!("control group {cgroup:?} is in domain {}, too", domain.name);
                    mistakes.push(files.mistake(&format!("domains.{}.cgroups", other.name), what));
                }
            }
        }
        if domains.len() > NAMED_MOST {
            mistakes.push(
                files.mistake("domains", format!("{} domains, the limit is {NAMED_MOST}", domains.len())),
            );
        }
        let said = &config.observers;
        let observers = users(files, "observers", said.uids.as_ref(), said.users.as_ref(), &mut mistakes);
        let policy = Self {
            quota: config.quota,
            defaults: config.defaults.clone(),
            domains,
            capacity: config.capacity,
            observers,
        };
        mistakes.extend(policy.promises_too_much(files));
        if mistakes.is_empty() { Ok(policy) } else { Err(mistakes) }
    }

    /// Quotas of domains with a name are promised, so together they are within the capacity.
    fn promises_too_much(&self, files: &Files) -> Vec<Mistake> {
        let quotas = || self.domains.iter().map(|domain| self.quota.with(domain.quota).quotas());
        let sum =
            |of: fn(&vgem_core::config::Quotas) -> u64| quotas().map(|q| of(&q)).fold(0, u64::saturating_add);
        let capacity = self.core().capacity;
        let mut mistakes = Vec::new();
        for (key, most, promised) in [
            ("capacity.bytes_mib", capacity.bytes, sum(|q| q.bytes)),
            ("capacity.connections", capacity.connections, sum(|q| q.connections)),
        ] {
            if let Some(most) = most.filter(|most| promised > *most) {
                let what = format!("the quotas of [domains] are {promised} together, the capacity is {most}");
                mistakes.push(files.mistake(key, what));
            }
        }
        mistakes
    }

    /// As the broker is told it.
    ///
    /// # Errors
    /// [`Exit::Config`] when there is more of it than a message holds.
    pub fn json(&self) -> Result<Vec<u8>, Failure> {
        let json = serde_json::to_vec(self).map_err(|e| Failure::new(Exit::Internal, e.to_string()))?;
        if json.len() > JSON_LEN {
            let text = format!(
                "[domains], [observers]: {} bytes as JSON, the limit is {JSON_LEN}; name groups, not users",
                json.len()
            );
            return Err(Failure::new(Exit::Config, text));
        }
        Ok(json)
    }

    /// Devices and operations that are named and that there are not.
    #[must_use]
    pub fn unknown(&self, files: &Files, devices: &[Description]) -> Vec<Mistake> {
        let mut mistakes = unknown_in("defaults", &self.defaults, files, devices);
        for domain in &self.domains {
            mistakes.extend(unknown_in(&format!("domains.{}", domain.name), &domain.may, files, devices));
        }
        mistakes
    }

    /// The policy as the rules want it, of a daemon for everybody.
    #[must_use]
    pub fn core(&self) -> CorePolicy {
        let domain = |named: &Named| NamedDomain {
            name: named.name.clone(),
            rules: Rules {
                quotas: self.quota.with(named.quota).quotas(),
                uses: May {
                    devices: named.may.devices.clone().or_else(|| self.defaults.devices.clone()),
                    operations: named.may.operations.clone().or_else(|| self.defaults.operations.clone()),
                }
                .uses(),
            },
            cgroups: named.cgroups.clone(),
            uids: named.uids.clone(),
            groups: named.groups.clone(),
        };
        CorePolicy {
            defaults: Rules { quotas: self.quota.quotas(), uses: self.defaults.uses() },
            domains: self.domains.iter().map(domain).collect(),
            capacity: CoreCapacity {
                bytes: self.capacity.bytes_mib.map(|mib| mib.saturating_mul(1 << 20)),
                connections: self.capacity.connections,
                files: self.capacity.files,
            },
            owner: None,
            observers: self.observers.clone(),
        }
    }
}

impl May {
    fn uses(&self) -> Uses {
        let set = |names: &Vec<String>| names.iter().cloned().collect::<BTreeSet<String>>();
        let operations = self.operations.iter().flatten();
        Uses {
            devices: self.devices.as_ref().map(set),
            operations: operations.map(|(device, names)| (device.clone(), set(names))).collect(),
        }
    }
}

/// The key that names a domain's users; the first of both if there are two.
fn place_of_uids(files: &Files, name: &str) -> String {
    let has_uids = files.config.domains.get(name).is_some_and(|domain| domain.uids.is_some());
    format!("domains.{name}.{}", if has_uids { "uids" } else { "users" })
}

/// The users that a table names by number and by name.
fn users(
    files: &Files,
    table: &str,
    uids: Option<&Vec<u32>>,
    names: Option<&Vec<String>>,
    mistakes: &mut Vec<Mistake>,
) -> BTreeSet<u32> {
    let key = |of: &str| format!("{table}.{of}");
    let mut found: BTreeSet<u32> = uids.into_iter().flatten().copied().collect();
    for name in names.into_iter().flatten() {
        match User::from_name(name) {
            Ok(Some(user)) => {
                found.insert(user.uid.as_raw());
            }
            Ok(None) => mistakes.push(files.mistake(&key("users"), format!("there is no user {name}"))),
            Err(e) => mistakes.push(files.mistake(&key("users"), format!("looking for user {name}: {e}"))),
        }
    }
    if let Some(uid) = found.iter().find(|uid| **uid >= FIRST_NAMED.0) {
        let what = format!("users from {} on are in no domain: {uid}", FIRST_NAMED.0);
        mistakes.push(files.mistake(&key(if uids.is_some() { "uids" } else { "users" }), what));
    }
    found
}

fn named(files: &Files, name: &str, domain: &Domain, mistakes: &mut Vec<Mistake>) -> Named {
    let key = |of: &str| format!("domains.{name}.{of}");
    if !is_domain_name(name) {
        let first = [
            ("uids", domain.uids.is_some()),
            ("users", domain.users.is_some()),
            ("cgroups", domain.cgroups.is_some()),
        ];
        let of = first.iter().find(|(_, said)| *said).map_or("groups", |(of, _)| of);
        let what = format!("{name:?} is no name of a domain: 1 to 32 of a to z, 0 to 9 and -");
        mistakes.push(files.mistake(&key(of), what));
    }
    let mut cgroups = BTreeSet::new();
    for cgroup in domain.cgroups.iter().flatten() {
        let what = wrong_path(cgroup).map(|what| format!("control group {}: {what}", quoted(cgroup)));
        let twice = || format!("control group {} is here twice", quoted(cgroup));
        if let Some(what) = what.or_else(|| (!cgroups.insert(cgroup.clone())).then(twice)) {
            mistakes.push(files.mistake(&key("cgroups"), what));
        }
    }
    let (said, table) = ((domain.uids.as_ref(), domain.users.as_ref()), format!("domains.{name}"));
    let uids = users(files, &table, said.0, said.1, mistakes);
    let mut groups = BTreeSet::new();
    for group in domain.groups.iter().flatten() {
        match Group::from_name(group) {
            Ok(Some(found)) => {
                groups.insert(found.gid.as_raw());
            }
            Ok(None) => mistakes.push(files.mistake(&key("groups"), format!("there is no group {group}"))),
            Err(e) => mistakes.push(files.mistake(&key("groups"), format!("looking for group {group}: {e}"))),
        }
    }
    let may = May { devices: domain.devices.clone(), operations: domain.operations.clone() };
    Named { name: name.to_owned(), cgroups, uids, groups, quota: domain.quota, may }
}

/// What is wrong with the path of a control group.
fn wrong_path(path: &str) -> Option<String> {
    let Some(names) = path.strip_prefix('/') else { return Some("the path must begin with /".into()) };
    if path.len() > CGROUP_LEN {
        return Some(format!("{} bytes, the limit is {CGROUP_LEN}", path.len()));
    }
    if names.is_empty() {
        return None;
    }
    if names.ends_with('/') {
        return Some("the path must not end with /".into());
    }
    let wrong = names.split('/').find(|name| matches!(*name, "" | "." | "..") || name.contains('\n'));
    wrong.map(|name| format!("{name:?} is no name of a control group"))
}

/// A path as it is shown: of a long one the beginning.
fn quoted(path: &str) -> String {
    const SHOWN: usize = 64;
    let shown: String = path.chars().take(SHOWN).collect();
    format!("{shown:?}{}", if shown.len() < path.len() { "..." } else { "" })
}

fn unknown_in(of: &str, may: &May, files: &Files, devices: &[Description]) -> Vec<Mistake> {
    let find = |name: &str| devices.iter().find(|device| device.name == name);
    let no_device = |name: &String| format!("there is no device {name}");
    let mut mistakes = Vec::new();
    for name in may.devices.iter().flatten().filter(|name| find(name).is_none()) {
        mistakes.push(files.mistake(&format!("{of}.devices"), no_device(name)));
    }
    let operations: &BTreeMap<String, Vec<String>> = &may.operations.clone().unwrap_or_default();
    for (device, names) in operations {
        let key = format!("{of}.operations.{device}");
        let Some(found) = find(device) else {
            mistakes.push(files.mistake(&key, no_device(device)));
            continue;
        };
        for name in names.iter().filter(|name| found.by_name(name).is_none()) {
            mistakes.push(files.mistake(&key, format!("device {device} has no operation {name}")));
        }
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use vgem_proto::describe::Operation;

    use super::*;

    fn files(text: &str) -> Files {
        let mut files = Files::default();
        files.add(Path::new("v.toml"), text);
        assert_eq!(files.mistakes.0, [], "{text}");
        files
    }

    fn said(text: &str) -> Vec<String> {
        let mistakes = Policy::of(&files(text)).expect_err("a mistake");
        mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_domain_has_the_rules_of_everybody_where_it_has_none_of_its_own() {
        let text = "[quota]\nobjects = 7\njobs = 8\n[defaults]\ndevices = [\"copy\"]\n[domains.a]\nuids = [3]\n\
                    quota = { jobs = 9 }\noperations = { zip = [\"compress\"] }\n";
        let policy = Policy::of(&files(text)).expect("right").core();
        let rules = &policy.domains[0].rules;
        assert_eq!((rules.quotas.objects, rules.quotas.jobs), (7, 9));
        assert_eq!(rules.uses.devices, Some(BTreeSet::from(["copy".to_owned()])));
        assert_eq!(rules.uses.operations["zip"], BTreeSet::from(["compress".to_owned()]));
        assert_eq!(policy.defaults.quotas.jobs, 8);
    }

    #[test]
    fn users_and_groups_that_there_are_not_are_named_with_their_line() {
        let said = said("[domains.a]\nusers = [\"root\", \"no-such-user\"]\ngroups = [\"no-such-group\"]\n");
        let expected = [
            "v.toml: line 2: domains.a.users: there is no user no-such-user",
            "v.toml: line 3: domains.a.groups: there is no group no-such-group",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_user_is_in_one_domain_and_has_no_number_of_a_domain() {
        let said =
            said("[domains.a]\nuids = [3]\n[domains.b]\nuids = [3]\n[domains.c]\nuids = [4026531840]\n");
        let expected = [
            "v.toml: line 6: domains.c.uids: users from 4026531840 on are in no domain: 4026531840",
            "v.toml: line 4: domains.b.uids: uid 3 is in domain a, too",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn paths_of_control_groups_are_paths_and_each_is_in_one_domain() {
        let long = "x".repeat(CGROUP_LEN);
        let said = said(&format!(
            "[domains.a]\ncgroups = [\"/a\", \"b\", \"/c/\", \"/d/../e\", \"/f//g\", \"/{long}\", \"/a\"]\n\
             [domains.b]\ncgroups = [\"/a/b\", \"/a\"]\n[domains.c]\ncgroups = [\"/\"]\n"
        ));
        let expected = [
            "v.toml: line 2: domains.a.cgroups: control group \"b\": the path must begin with /".to_owned(),
            "v.toml: line 2: domains.a.cgroups: control group \"/c/\": the path must not end with /".to_owned(),
            "v.toml: line 2: domains.a.cgroups: control group \"/d/../e\": \"..\" is no name of a control group".to_owned(),
            "v.toml: line 2: domains.a.cgroups: control group \"/f//g\": \"\" is no name of a control group".to_owned(),
            format!(
                "v.toml: line 2: domains.a.cgroups: control group \"/{}\"...: 4097 bytes, the limit is 4096",
                "x".repeat(63)
            ),
            "v.toml: line 2: domains.a.cgroups: control group \"/a\" is here twice".to_owned(),
            "v.toml: line 4: domains.b.cgroups: control group \"/a\" is in domain a, too".to_owned(),
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn observers_are_named_by_user_and_by_number_and_nobody_is_one_unsaid() {
        let observers = |text: &str| Policy::of(&files(text)).expect("right").core().observers;
        assert_eq!(observers(""), BTreeSet::new());
        assert_eq!(observers("[observers]\nusers = [\"root\"]\nuids = [7]\n"), BTreeSet::from([0, 7]));
    }

    #[test]
    fn observers_that_there_are_not_are_named_with_their_line() {
        let said = said("[observers]\nusers = [\"no-such-user\"]\nuids = [4026531840]\n");
        let expected = [
            "v.toml: line 2: observers.users: there is no user no-such-user",
            "v.toml: line 3: observers.uids: users from 4026531840 on are in no domain: 4026531840",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn no_more_is_promised_than_there_is() {
        let said = said(
            "[capacity]\nbytes_mib = 3\n[domains.a]\nquota = { bytes_mib = 2 }\n[domains.b]\nquota = { bytes_mib = 2 }\n",
        );
        let what = "the quotas of [domains] are 4194304 together, the capacity is 3145728";
        assert_eq!(said, [format!("v.toml: line 2: capacity.bytes_mib: {what}")]);
    }

    #[test]
    fn devices_and_operations_that_there_are_not_are_found() {
        let files =
            files("[defaults]\ndevices = [\"zpi\"]\n[domains.a.operations]\nzip = [\"x\"]\nqat = []\n");
        let zip = Description::new("zip", "", 1).operation(Operation::new(0, "compress", ""));
        let policy = Policy::of(&files).expect("right");
        let said: Vec<String> = policy.unknown(&files, &[zip]).iter().map(ToString::to_string).collect();
        let expected = [
            "v.toml: line 2: defaults.devices: there is no device zpi",
            "v.toml: line 5: domains.a.operations.qat: there is no device qat",
            "v.toml: line 4: domains.a.operations.zip: device zip has no operation x",
        ];
        assert_eq!(said, expected);
    }
}
