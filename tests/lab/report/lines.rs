//! Lines that tell of a case or a configuration, in the two forms in which programs write them.

/// One case, however it was printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) name: String,
    /// Empty: it names none.
    pub(super) configuration: String,
    /// `ok`, `skipped` or `failed`.
    pub(super) outcome: String,
    pub(super) reason: String,
}

/// What a configuration can do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Means {
    pub(super) has: Vec<String>,
    /// With the reason, where it is a matter of the kernel's.
    pub(super) lacks: Vec<(String, String)>,
    /// Why it is not there at all.
    pub(super) unavailable: Option<String>,
}

/// The case a line tells of, if it does.
pub(super) fn case(line: &str) -> Option<Case> {
    if let Some(rest) = line.strip_prefix("test ") {
        let (name, outcome) = rest.rsplit_once(" ... ")?;
        let (outcome, reason) = outcome.split_once(", ").unwrap_or((outcome, ""));
        let outcome = match outcome {
            "ok" => "ok",
            "FAILED" => "failed",
            "ignored" => "skipped",
            _ => return None,
        };
        return Some(Case {
            name: name.to_owned(),
            configuration: String::new(),
            outcome: outcome.to_owned(),
            reason: reason.to_owned(),
        });
    }
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    Some(Case {
        name: text("case")?,
        configuration: text("configuration")?,
        outcome: text("outcome")?,
        reason: text("reason")?,
    })
}

/// The configuration a line tells of, if it does, and what it can and cannot do.
pub(super) fn configuration(line: &str) -> Option<(String, Means)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let name = value["configuration"].as_str()?.to_owned();
    if let Some(reason) = value["unavailable"].as_str() {
        return Some((name, Means { unavailable: Some(reason.to_owned()), ..Means::default() }));
    }
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let has = value["has"].as_array()?.iter().map(text).collect();
    let lacks = value["lacks"].as_object()?.iter();
    let lacks = lacks.map(|(name, reason)| (name.clone(), text(reason)));
    let lacks = lacks.filter(|(_, reason)| !reason.is_empty()).collect();
    Some((name, Means { has, lacks, unavailable: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_read_in_both_forms() {
        let line = r#"{"case":"a/b","configuration":"full","outcome":"ok","reason":""}"#;
        let harness = case("test tests::a ... ignored, no device").expect("one");
        assert_eq!((harness.outcome.as_str(), harness.reason.as_str()), ("skipped", "no device"));
        assert_eq!(case("test result: ok. 1 passed"), None);
        assert_eq!(case(line).map(|case| case.configuration), Some("full".into()));
    }

    #[test]
    fn a_configuration_says_what_it_can_and_why_not_the_rest() {
        let line = r#"{"configuration":"full","has":["a","b"],"lacks":{"c":"","d":"too old"}}"#;
        let means = Means {
            has: ["a", "b"].map(String::from).to_vec(),
            lacks: vec![("d".to_owned(), "too old".to_owned())],
            unavailable: None,
        };
        assert_eq!((case(line), configuration(line)), (None, Some(("full".into(), means))));
        let line = r#"{"configuration":"full","unavailable":"too old"}"#;
        let means = configuration(line).expect("one").1;
        assert_eq!(means.unavailable.as_deref(), Some("too old"));
    }
}
