//! Just enough of Rust's lexer and brackets for the rules: blank the prose, find words, measure
//! functions.
//!
//! `blank_prose` replaces comments, string and character literals by spaces and keeps every line
//! and column, so a rule that must not trip over prose or samples searches the result and reports
//! the true line. It knows nested block comments, raw and byte strings, and tells a lifetime from
//! a character by the closing quote.

/// The text with comments and literals blanked; newlines stay.
pub(crate) fn blank_prose(text: &str) -> String {
    blank(text, false)
}

/// The text with literals blanked and comments kept: a sample in a string is no documentation.
pub(crate) fn blank_literals(text: &str) -> String {
    blank(text, true)
}

fn blank(text: &str, keeps_comments: bool) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        match prose_end(&chars, at) {
            Some(end) if keeps_comments && chars[at] == '/' => {
                code.extend(&chars[at..end]);
                at = end;
            }
            Some(end) => {
                let blank = |c: &char| if *c == '\n' { '\n' } else { ' ' };
                code.extend(chars[at..end].iter().map(blank));
                at = end;
            }
            None => {
                code.push(chars[at]);
                at += 1;
            }
        }
    }
    code
}

/// Where the comment or literal that starts at `at` ends, if one starts there.
fn prose_end(chars: &[char], at: usize) -> Option<usize> {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => Some(find(chars, at, |c| c == '\n')),
        '/' if next == Some('*') => Some(block_comment_end(chars, at)),
        '"' => Some(string_end(chars, at + 1)),
        '\'' => character_end(chars, at),
        'r' if at == 0
            || !is_word(chars[at - 1])
            || chars[at - 1] == 'b'
            || chars[at - 1] == 'c' =>
        {
            raw_string_end(chars, at)
        }
        _ => None,
    }
}

fn find(chars: &[char], from: usize, matches: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|&at| matches(chars[at])).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

/// `at` is the first character inside the quotes.
fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// A quote is a character only when one character or one escape is followed by a quote; else it is
/// a lifetime or a label.
fn character_end(chars: &[char], at: usize) -> Option<usize> {
    if chars.get(at + 1) == Some(&'\\') {
        return Some((find(chars, at + 3, |c| c == '\'') + 1).min(chars.len()));
    }
    (chars.get(at + 2) == Some(&'\'')).then_some(at + 3)
}

/// `r"…"`, `r#"…"#` and so on; `None` for a raw identifier or a plain word.
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let quote = find(chars, at + 1, |c| c != '#');
    let hashes = quote - at - 1;
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    let closes = |&end: &usize| {
        let tail = chars.get(end + 1..end + 1 + hashes);
        chars[end] == '"' && tail.is_some_and(|tail| tail.iter().all(|&c| c == '#'))
    };
    Some((quote + 1..chars.len()).find(closes).map_or(chars.len(), |end| end + 1 + hashes))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Byte offsets at which `word` stands alone, that is, not as a part of a longer word.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        !text[..at].chars().next_back().is_some_and(is_word)
            && !text[at + word.len()..].chars().next().is_some_and(is_word)
    })
}

/// The line a byte offset lies on, counted from 1.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// A function with a body: its name, the line of its `fn`, and the lines to its closing brace.
#[derive(Debug, PartialEq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// Every function with a body in blanked code, nested ones too.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    words(code, "fn").filter_map(|at| function_at(code, at)).collect()
}

fn function_at(code: &str, at: usize) -> Option<Function> {
    let rest = &code[at..];
    let after = rest["fn".len()..].trim_start();
    let name: String = after.chars().take_while(|&c| is_word(c) || c == '$' || c == '#').collect();
    if name.is_empty() {
        return None; // a function pointer type
    }
    let end = at + body_end(rest)?;
    let line = line_of(code, at);
    Some(Function { name, line, lines: line_of(code, end) - line + 1 })
}

/// The offset of the brace that closes the body; `None` for a declaration without one.
fn body_end(rest: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut in_body = false;
    for (at, c) in rest.char_indices() {
        match c {
            ';' if depth == 0 => return None,
            '{' if depth == 0 && !in_body => {
                in_body = true;
                depth = 1;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth = depth.checked_sub(1)?;
                if in_body && depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[test]
fn prose_is_blanked_and_code_stays() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"f("x\"y", z)"#, "f(      , z)"),
        ("f(r##\"a\"# b\"##, z)", "f(            , z)"),
        ("f(br\"{\", z)", "f(b    , z)"),
        ("x::<'a>('{', '\\'', '\\u{7b}')", "x::<'a>(   ,     ,         )"),
        ("'outer: loop {}", "'outer: loop {}"),
        ("r#type for\"{\"", "r#type for   "),
    ];
    for (text, code) in cases {
        assert_eq!(blank_prose(text), code, "{text}");
    }
}

#[test]
fn functions_are_measured_to_their_closing_brace() {
    let text = "\
trait T { fn declared(&self, a: [u8; 4]); }
fn pointer(f: fn(u8) -> u8) -> [u8; 2] where T: X {
    if f(b'}') == 1 { \"}}}\"; }
    fn inner() {}
}
";
    let found: Vec<(String, usize, usize)> = functions(&blank_prose(text))
        .into_iter()
        .map(|function| (function.name, function.line, function.lines))
        .collect();
    assert_eq!(found, [("pointer".into(), 2, 4), ("inner".into(), 4, 1)]);
}

#[test]
fn a_word_is_not_a_part_of_another() {
    assert_eq!(words("unsafe unsafe_code my_unsafe (unsafe)", "unsafe").count(), 2);
}
