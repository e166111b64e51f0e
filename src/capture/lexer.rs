//! An expression as tokens. Columns count characters, so that a caret stands right under what it means.

use std::ops::Range;

use super::{Node, PolicyError, template};

/// A text that errors can point into.
#[derive(Debug, Clone)]
pub(super) struct Source(Vec<char>);

impl Source {
    pub fn new(text: &str) -> Self {
        Source(text.chars().collect())
    }

    pub fn get(&self, at: usize) -> Option<char> {
        self.0.get(at).copied()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// This stands at `at`.
    pub fn says(&self, at: usize, what: &str) -> bool {
        what.chars().enumerate().all(|(i, c)| self.get(at + i) == Some(c))
    }

    /// Where this stands first in a part.
    pub fn find(&self, mut part: Range<usize>, what: &str) -> Option<usize> {
        part.find(|i| self.says(*i, what))
    }

    pub fn text(&self, range: Range<usize>) -> String {
        self.0.get(range).into_iter().flatten().collect()
    }

    /// A part without the blanks around it.
    pub fn trimmed(&self, range: Range<usize>) -> Range<usize> {
        let solid = |i: &usize| self.get(*i).is_some_and(|c| !c.is_whitespace());
        match (range.clone().find(solid), range.clone().rev().find(solid)) {
            (Some(first), Some(last)) => first..last + 1,
            _ => range.end..range.end,
        }
    }

    /// A fault at this column.
    pub fn fault(&self, at: usize, message: impl Into<String>) -> PolicyError {
        PolicyError::new(&self.0, at, &message.into())
    }
}

/// One word of a path, such as `ipv4`, `0` or `"802.1x"`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Segment {
    pub name: String,
    /// Column of its first character.
    pub at: usize,
    /// In quotes it is never an index.
    pub quoted: bool,
}

impl Segment {
    /// Its meaning in a list.
    pub fn index(&self) -> Option<usize> {
        let digits = !self.quoted && self.name.bytes().all(|b| b.is_ascii_digit());
        self.name.parse().ok().filter(|_| digits)
    }
}

/// Words with dots between them, as written: `routes.running.0.destination`.
pub(super) fn dotted(path: &[Segment]) -> String {
    let word = |s: &Segment| match s.name.contains('.') {
        true => format!("\"{}\"", s.name),
        false => s.name.clone(),
    };
    path.iter().map(word).collect::<Vec<_>>().join(".")
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// At least one dot.
    Path(Vec<Segment>),
    /// In quotes, or a word without dots.
    Text(String),
    /// The bare word.
    Null,
    /// `|`
    Pipe,
    /// `==`
    Equal,
    /// `!=`
    Unequal,
    /// `:=`
    Replace,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub kind: Kind,
    pub at: usize,
}

/// The tokens of a part of a text. What `{{ node.… }}` stands for never becomes an operator or a dot.
pub(super) fn tokens(source: &Source, part: Range<usize>, node: &Node) -> Result<Vec<Token>, PolicyError> {
    let mut lexer = Lexer {
        source,
        at: part.start,
        end: part.end,
        node,
    };
    let mut all = vec![];
    while let Some(token) = lexer.next()? {
        all.push(token);
    }
    Ok(all)
}

/// Ends a bare word. A no-break space is white space too, as people paste expressions from web pages.
fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, '=' | '!' | '|' | '"' | ':')
}

struct Lexer<'a> {
    source: &'a Source,
    at: usize,
    end: usize,
    node: &'a Node,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.source.get(self.at).filter(|_| self.at < self.end)
    }

    fn next(&mut self) -> Result<Option<Token>, PolicyError> {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
        let at = self.at;
        let Some(c) = self.peek() else { return Ok(None) };
        let operator = |text: &str| self.source.says(at, text) && at + text.len() <= self.end;
        let kind = match c {
            '|' => Kind::Pipe,
            '=' if operator("==") => Kind::Equal,
            '!' if operator("!=") => Kind::Unequal,
            ':' if operator(":=") => Kind::Replace,
            '=' => return Err(self.source.fault(at, "a single '=' means nothing: write '==' or ':='")),
            '!' => return Err(self.source.fault(at, "a '!' stands only in '!='")),
            ':' => {
                let hint = "a ':' stands only in ':='; put a text that holds one in quotes";
                return Err(self.source.fault(at, hint));
            }
            _ => return self.quoted_or_word().map(|kind| Some(Token { kind, at })),
        };
        self.at += if kind == Kind::Pipe { 1 } else { 2 };
        Ok(Some(Token { kind, at }))
    }

    fn quoted_or_word(&mut self) -> Result<Kind, PolicyError> {
        if let Some(text) = self.quoted()? {
            return Ok(Kind::Text(text));
        }
        let (mut path, filled) = self.path()?;
        if path.len() > 1 {
            let empty = path.iter().find(|s| s.name.is_empty() && !s.quoted);
            return match empty {
                Some(s) => Err(self.source.fault(s.at, "an empty keyword in a path").of_words()),
                None => Ok(Kind::Path(path)),
            };
        }
        let word = path.remove(0).name;
        let null = !filled && ["null", "NULL", "Null"].contains(&word.as_str());
        Ok(if null { Kind::Null } else { Kind::Text(word) })
    }

    /// The text in quotes that begins here. An apostrophe without its like is an ordinary character.
    fn quoted(&mut self) -> Result<Option<String>, PolicyError> {
        let quote = match self.peek() {
            Some(c @ ('"' | '\'')) => c,
            _ => return Ok(None),
        };
        let start = self.at;
        let mut text = String::new();
        self.at += 1;
        while let Some(c) = self.peek() {
            if c == quote {
                self.at += 1;
                return Ok(Some(text));
            }
            self.take(&mut text)?;
        }
        self.at = start;
        match quote {
            '\'' => Ok(None),
            _ => Err(self.source.fault(start, "this quote is not closed")),
        }
    }

    /// The next character, or what a template here stands for. Says whether it was one.
    fn take(&mut self, out: &mut String) -> Result<bool, PolicyError> {
        if template::begins(self.source, self.at) {
            let hole = template::hole(self.source, self.at)?;
            out.push_str(&template::node_text(self.source, hole.inner, self.node)?);
            self.at = hole.end;
            return Ok(true);
        }
        out.extend(self.source.get(self.at));
        self.at += 1;
        Ok(false)
    }

    /// Words and dots up to what ends them. Says whether a template was among them.
    fn path(&mut self) -> Result<(Vec<Segment>, bool), PolicyError> {
        let mut path = vec![];
        let mut filled = false;
        loop {
            let at = self.at;
            let quoted = if path.is_empty() { None } else { self.quoted()? };
            let mut segment = Segment {
                name: quoted.clone().unwrap_or_default(),
                at,
                quoted: quoted.is_some(),
            };
            while quoted.is_none() && self.peek().is_some_and(|c| c != '.' && !ends_word(c)) {
                filled |= self.take(&mut segment.name)?;
            }
            path.push(segment);
            if self.peek() != Some('.') {
                return Ok((path, filled));
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> String {
        let source = Source::new(text);
        let node = Node {
            name: "n1.example.org".into(),
            ..Node::default()
        };
        let show = |token: Token| match token.kind {
            Kind::Path(path) => format!("{}@{}", dotted(&path), token.at),
            other => format!("{other:?}@{}", token.at),
        };
        match tokens(&source, 0..source.len(), &node) {
            Ok(all) => all.into_iter().map(show).collect::<Vec<_>>().join(" "),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn words_paths_and_operators_need_no_blanks() {
        assert_eq!(kinds("a.b==\"c d\""), r#"a.b@0 Equal@3 Text("c d")@5"#);
        assert_eq!(
            kinds("capture.x|a.0.b:=null"),
            "capture.x@0 Pipe@9 a.0.b@10 Replace@15 Null@17"
        );
        assert_eq!(kinds("a.b\u{a0}!=\u{a0}'c'"), r#"a.b@0 Unequal@4 Text("c")@7"#);
        assert_eq!(kinds("'tis Null \"null\""), r#"Text("'tis")@0 Null@5 Text("null")@10"#);
        assert_eq!(kinds("  \n "), "");
    }

    #[test]
    fn a_key_with_a_dot_is_written_in_quotes() {
        assert_eq!(
            kinds("interfaces.\"802.1x\".identity"),
            "interfaces.\"802.1x\".identity@0"
        );
        assert_eq!(kinds("a.'b.c'"), "a.\"b.c\"@0");
    }

    #[test]
    fn the_dots_of_a_node_name_are_text() {
        assert_eq!(
            kinds("a.b == {{ node.name }}"),
            r#"a.b@0 Equal@4 Text("n1.example.org")@7"#
        );
        assert_eq!(
            kinds("a.b == \"on {{node.name}}\""),
            r#"a.b@0 Equal@4 Text("on n1.example.org")@7"#
        );
    }

    #[test]
    fn letters_of_all_tongues_count_as_one_column() {
        assert_eq!(
            kinds("é.ü == \"ß\" ="),
            "a single '=' means nothing: write '==' or ':='\n| é.ü == \"ß\" =\n| ...........^"
        );
    }
}
