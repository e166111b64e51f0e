//! Tokens as an expression: what is taken, from where, and what is done with it.

use super::lexer::{Kind, Segment, Source, Token, dotted, tokens};
use super::{Node, PolicyError};

/// The lists of a state that an expression may work on.
const LISTS: &[&[&str]] = &[
    &["interfaces"],
    &["routes", "running"],
    &["routes", "config"],
    &["route-rules", "config"],
];

/// One capture, ready to run.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    pub source: Source,
    /// What stands before `|`; without it the current state is the input.
    pub input: Option<Input>,
    pub action: Action,
}

/// `capture.a |`, or with a list `capture.a.interfaces |`.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub capture: Segment,
    pub list: Option<Target>,
}

#[derive(Debug, Clone)]
pub(super) enum Action {
    /// A text without a path: all of the input.
    Whole,
    /// A path alone: its list and nothing else.
    Keep(Target),
    /// `==` (or `!=` where not `equal`): the entries whose property is that.
    Filter { target: Target, equal: bool, right: Right },
    /// `:=`: the input with the property of every entry set.
    Replace { target: Target, right: Right },
}

/// A list of the state, and where in its entries.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub list: &'static [&'static str],
    /// Column where the path begins.
    pub at: usize,
    pub rest: Vec<Segment>,
}

/// What stands right of an operator.
#[derive(Debug, Clone)]
pub(super) enum Right {
    Text {
        text: String,
        at: usize,
    },
    Null,
    /// In a capture: the path without the word `capture`.
    Captured(Vec<Segment>),
    /// In the input.
    Input(Vec<Segment>),
}

impl Expression {
    pub fn parse(text: &str, node: &Node) -> Result<Self, PolicyError> {
        let source = Source::new(text.trim_end());
        let tokens = tokens(&source, 0..source.len(), node)?;
        let mut pipes = tokens.iter().enumerate().filter(|(_, t)| t.kind == Kind::Pipe);
        let (first, second) = (pipes.next(), pipes.next());
        if let Some((_, token)) = second {
            return Err(source.fault(
                token.at,
                "only one '|' in a line: give the first part a name of its own",
            ));
        }
        let (input, rest) = match first {
            Some((i, pipe)) => (Some(input(&source, &tokens[..i], pipe.at)?), &tokens[i + 1..]),
            None => (None, &tokens[..]),
        };
        let action = action(&source, rest)?;
        Ok(Expression { source, input, action })
    }

    /// The captures that must be there before this one.
    pub fn parents(&self) -> impl Iterator<Item = &Segment> {
        let right = match &self.action {
            Action::Filter { right, .. } | Action::Replace { right, .. } => Some(right),
            Action::Whole | Action::Keep(_) => None,
        };
        let named = right.and_then(|r| match r {
            Right::Captured(path) => path.first(),
            Right::Text { .. } | Right::Null | Right::Input(_) => None,
        });
        self.input.iter().map(|i| &i.capture).chain(named)
    }
}

fn input(source: &Source, tokens: &[Token], pipe: usize) -> Result<Input, PolicyError> {
    let wrong = |at| {
        source.fault(
            at,
            "only a capture can stand before '|', as in 'capture.base | interfaces.…'",
        )
    };
    match tokens {
        [] => Err(wrong(pipe)),
        [
            Token {
                kind: Kind::Path(path), ..
            },
        ] => match captured(path) {
            Some([capture]) => Ok(Input {
                capture: capture.clone(),
                list: None,
            }),
            Some([capture, rest @ ..]) => Ok(Input {
                capture: capture.clone(),
                list: Some(target(source, rest)?),
            }),
            _ => Err(wrong(path[0].at)),
        },
        [
            Token {
                kind: Kind::Path(_), ..
            },
            extra,
            ..,
        ] => Err(wrong(extra.at)),
        [first, ..] => Err(wrong(first.at)),
    }
}

fn action(source: &Source, tokens: &[Token]) -> Result<Action, PolicyError> {
    let is_operator = |t: &&Token| matches!(t.kind, Kind::Equal | Kind::Unequal | Kind::Replace);
    let mut operators = tokens.iter().enumerate().filter(|(_, t)| is_operator(t));
    let (first, second) = (operators.next(), operators.next());
    if let Some((_, token)) = second {
        return Err(source.fault(token.at, "only one of '==', '!=' and ':=' in a line"));
    }
    let Some((i, operator)) = first else {
        return without_operator(source, tokens);
    };
    let left = match &tokens[..i] {
        [] => return Err(source.fault(operator.at, "a path is missing before the operator")),
        [
            Token {
                kind: Kind::Path(path), ..
            },
        ] => path,
        [
            Token {
                kind: Kind::Path(_), ..
            },
            extra,
            ..,
        ] => {
            return Err(source.fault(extra.at, "only one path can stand before the operator"));
        }
        [first, ..] => {
            return Err(source.fault(
                first.at,
                "a path must stand before the operator, such as 'interfaces.name'",
            ));
        }
    };
    let target = target(source, left)?;
    let whole_entry = target.rest.len() < 2 && target.rest.iter().all(|s| s.index().is_some());
    if whole_entry {
        let end = left.last().map_or(0, |s| s.at);
        let list = target.list.join(".");
        return Err(source.fault(end, format!("a property of its entries must follow '{list}'")));
    }
    let right = right(source, &tokens[i + 1..], operator)?;
    Ok(match operator.kind {
        Kind::Replace => Action::Replace { target, right },
        _ => Action::Filter {
            target,
            equal: operator.kind == Kind::Equal,
            right,
        },
    })
}

/// A path, or text that means everything.
fn without_operator(source: &Source, tokens: &[Token]) -> Result<Action, PolicyError> {
    match tokens {
        [
            Token {
                kind: Kind::Path(path), ..
            },
        ] => target(source, path).map(Action::Keep),
        [
            Token {
                kind: Kind::Path(_), ..
            },
            next,
            ..,
        ] => Err(source.fault(next.at, "an operator is missing here: '==', '!=' or ':='")),
        _ => match tokens.iter().find(|t| matches!(t.kind, Kind::Path(_))) {
            Some(path) => Err(source.fault(path.at, "nothing can stand before a path but 'capture.… |'")),
            None => Ok(Action::Whole),
        },
    }
}

fn right(source: &Source, tokens: &[Token], operator: &Token) -> Result<Right, PolicyError> {
    let replace = operator.kind == Kind::Replace;
    let Some(first) = tokens.first() else {
        return Err(source.fault(source.len(), "a value is missing at the end"));
    };
    if let Some(extra) = tokens.get(1) {
        return Err(source.fault(
            extra.at,
            "nothing can follow the value: put a text with blanks in quotes",
        ));
    }
    match &first.kind {
        Kind::Text(text) => Ok(Right::Text {
            text: text.clone(),
            at: first.at,
        }),
        Kind::Null if replace => Ok(Right::Null),
        Kind::Null => Err(source.fault(first.at, "null can only be set, not compared with")),
        Kind::Path(path) => match captured(path) {
            Some(path) => Ok(Right::Captured(path.to_vec())),
            None if !replace && list_of(path).is_some() => Ok(Right::Input(path.clone())),
            None => {
                let hint = "is a path here; put a text with dots in quotes, or begin with 'capture.'";
                Err(source.fault(first.at, format!("'{}' {hint}", dotted(path))).of_words())
            }
        },
        _ => Err(source.fault(first.at, "a value is missing here").of_words()),
    }
}

/// The path behind the word `capture`; at least the name.
pub(super) fn captured(path: &[Segment]) -> Option<&[Segment]> {
    match path {
        [root, rest @ ..] if root.name == "capture" && !rest.is_empty() => Some(rest),
        _ => None,
    }
}

fn list_of(path: &[Segment]) -> Option<&'static [&'static str]> {
    let begins = |list: &[&str]| list.len() <= path.len() && list.iter().zip(path).all(|(w, s)| *w == s.name);
    LISTS.iter().copied().find(|list| begins(list))
}

fn target(source: &Source, path: &[Segment]) -> Result<Target, PolicyError> {
    if let Some(list) = list_of(path) {
        return Ok(Target {
            list,
            at: path[0].at,
            rest: path[list.len()..].to_vec(),
        });
    }
    let message = match captured(path) {
        Some(_) => "unsupported keyword 'capture' here: write 'capture.… | …' to work on a capture".to_owned(),
        None => format!(
            "unsupported keyword '{}': a path begins with interfaces, routes.running, routes.config or route-rules.config",
            dotted(path)
        ),
    };
    let at = LISTS.iter().any(|list| list[0] == path[0].name) && path.len() > 1;
    Err(source.fault(path[usize::from(at)].at, message).of_words())
}
