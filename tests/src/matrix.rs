//! The configurations the suite runs in.
//!
//! Made from [`Backend::ALL`] and [`Capability::ALL`]: io_uring with everything (`full`), with each
//! capability of this machine masked alone (`without-NAME`), with none (`minimal`), and with a
//! kernel thread that submits (`sqpoll`); `epoll`; `poll`; and `full`, `minimal`, `epoll` and
//! `poll` again over a backend that misbehaves within the contract, by a seed (`NAME-faults`).
//! Where io_uring is not to be had its configurations are there all the same, each with the reason
//! for which it is skipped.

use crate::OPERATIONS;
use dataplane::{Backend, Capabilities, Capability, Options, Proactor, SqPoll, diagnose};
use std::collections::BTreeMap;
use std::time::Duration;

/// One way to make a proactor.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// As `--configuration` names it.
    pub name: String,
    /// What its proactors are made with.
    pub options: Options,
    /// What they can do, or why there are none.
    pub capabilities: Result<Capabilities, String>,
}

impl Configuration {
    fn new(name: &str, options: Options) -> Configuration {
        let capabilities = match Proactor::with(options.clone()) {
            Ok(io) => Ok(io.capabilities()),
            Err(error) => Err(error.to_string()),
        };
        Configuration { name: name.to_owned(), options, capabilities }
    }

    /// As one line of JSON: what it has of all capabilities, what it lacks, with the kernel's
    /// reason where that is why, or why it is not there.
    pub fn json(&self) -> String {
        let have = self.capabilities.as_ref().copied().unwrap_or(Capabilities::none());
        let (has, lacks): (Vec<Capability>, Vec<Capability>) =
            Capability::ALL.into_iter().partition(|&one| have.contains(one));
        let kernel = (self.options.backend == Backend::IoUring).then(diagnose::io_uring);
        let reason = |one: &Capability| {
            let proof = kernel.as_ref()?.proof(*one).filter(|proof| !proof.available)?;
            Some(proof.proof.clone())
        };
        let lacks: BTreeMap<&str, String> =
            lacks.iter().map(|one| (one.name(), reason(one).unwrap_or_default())).collect();
        serde_json::json!({
            "configuration": self.name,
            "has": has.iter().map(|one| one.name()).collect::<Vec<_>>(),
            "lacks": lacks,
            "unavailable": self.capabilities.as_ref().err(),
        })
        .to_string()
    }

    /// The row of the matrix, as the environment variable `REQUIRE` names it: the backend.
    pub fn row(&self) -> &'static str {
        self.options.backend.name()
    }
}

fn options(backend: Backend) -> Options {
    Options::default().backend(backend).operations(OPERATIONS)
}

/// A kernel thread that submits, and sleeps so soon that cases meet it awake and asleep.
fn sqpoll(options: Options) -> Options {
    options.sqpoll(SqPoll { idle: Duration::from_millis(1), cpu: None })
}

/// Every configuration; `seed` is that of the injected faults.
pub fn all(seed: u64) -> Vec<Configuration> {
    // Finding out what there is opens descriptors, which a case would be blamed for.
    let _turn = crate::runner::turn();
    let mut all = Vec::new();
    let mut masks = Vec::new();
    for backend in Backend::ALL {
        if backend != Backend::IoUring {
            all.push(Configuration::new(backend.name(), options(backend)));
            continue;
        }
        let full = Configuration::new("full", options(backend));
        let least = options(backend).allowed(Capabilities::none());
        // Without io_uring it is not known what there would be to mask.
        let detected = full.capabilities.clone().unwrap_or(Capabilities::all());
        for capability in Capability::ALL.into_iter().filter(|&one| detected.contains(one)) {
            let allowed = Capabilities::all().without(capability);
            let name = format!("without-{capability}");
            masks.push(Configuration::new(&name, options(backend).allowed(allowed)));
        }
        masks.push(Configuration::new("sqpoll", sqpoll(options(backend))));
        all.push(full);
        all.push(Configuration::new("minimal", least));
    }
    let faults: Vec<Configuration> = all
        .iter()
        .map(|plain| Configuration {
            name: format!("{}-faults", plain.name),
            options: plain.options.clone().faults(seed),
            capabilities: plain.capabilities.clone(),
        })
        .collect();
    all.into_iter().chain(masks).chain(faults).collect()
}

/// Those of [`all`] whose name is among `names`; all of them when there are none.
///
/// # Errors
///
/// A name that is not in the matrix, with those that are.
pub fn named(names: &[String], seed: u64) -> Result<Vec<Configuration>, String> {
    let mut all = all(seed);
    let known: Vec<String> = all.iter().map(|one| one.name.clone()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        return Err(format!("no configuration `{unknown}` here; choose from {}", known.join(", ")));
    }
    all.retain(|one| names.is_empty() || names.contains(&one.name));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_has_every_backend_and_every_detected_mask() {
        let all = all(1);
        let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
        for name in ["full", "minimal", "epoll", "poll"] {
            assert!(names.contains(&name), "{names:?}");
            let faults = format!("{name}-faults");
            assert!(names.contains(&faults.as_str()), "{names:?}");
        }
        assert!(names.contains(&"sqpoll"), "{names:?}");
        let masks = all.iter().filter(|one| one.name.starts_with("without-"));
        for mask in masks {
            let Ok(have) = mask.capabilities else { continue };
            let name = mask.name.trim_start_matches("without-");
            let masked: Capability = name.parse().expect("named after a capability");
            assert!(!have.contains(masked), "{} still has it", mask.name);
        }
        let minimal = all.iter().find(|one| one.name == "minimal").expect("listed above");
        assert!(minimal.capabilities.clone().is_ok_and(|have| have.is_empty()) || names.len() > 8);
    }

    #[test]
    fn a_line_of_json_names_each_capability_once() {
        for configuration in all(1) {
            let value: serde_json::Value = serde_json::from_str(&configuration.json()).unwrap();
            let has = value["has"].as_array().map_or(0, Vec::len);
            let lacks = value["lacks"].as_object().map_or(0, serde_json::Map::len);
            assert_eq!(value["configuration"], configuration.name.as_str());
            assert_eq!(value["unavailable"].is_null(), configuration.capabilities.is_ok());
            assert_eq!(has + lacks, Capability::ALL.len());
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_there_are() {
        let refused = named(&["fulll".to_owned()], 1).unwrap_err();
        assert!(refused.contains("fulll") && refused.contains("epoll-faults"), "{refused}");
        let chosen = named(&["poll".to_owned()], 1).unwrap();
        assert_eq!(chosen.len(), 1);
        assert_eq!(chosen[0].row(), "poll");
    }
}
