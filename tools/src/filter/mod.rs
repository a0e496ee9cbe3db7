//! The filter expressions of the command line: `year >= 2020 and source = "pep"`.
//!
//! ```text
//! or         = and , { "or" , and }
//! and        = not , { "and" , not }
//! not        = "not" , not | "(" , or , ")" | comparison
//! comparison = name , ( "=" | "!=" | "<" | "<=" | ">" | ">=" | "like" ) , value
//!            | name , [ "not" ] , "in" , list
//!            | name , "contains" , ( "any" | "all" ) , list
//!            | name , "is" , [ "not" ] , "null"
//! ```
//!
//! Words may be written in either case. Values are read as the type that the property declares.

mod lexer;

use heddle_types::json::comparison_value;
use heddle_types::limits::{FILTER_DEPTH_MAX, FILTER_NODES_MAX};
use heddle_types::{ApiError, CollectionConfig, Filter, Operator};
use serde_json::Value as Json;

use lexer::{Kind, Token};

/// An expression that makes no sense, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}\n  {expression}\n  {:>width$}", "^", width = self.column())]
pub(crate) struct ExpressionError {
    /// What is wrong.
    pub(crate) message: String,
    /// Byte at which it is wrong.
    pub(crate) offset: usize,
    expression: String,
}

impl ExpressionError {
    /// The character column of the error, from 1.
    fn column(&self) -> usize {
        self.expression[..self.offset].chars().count() + 1
    }
}

/// What went wrong below the level at which the whole expression is known.
struct Fault {
    message: String,
    offset: usize,
}

/// Reads an expression as a filter on one collection.
pub(crate) fn parse(
    expression: &str,
    config: &CollectionConfig,
) -> Result<Filter, ExpressionError> {
    // One line, so that the mark stands below the fault.
    let expression = expression.replace(['\n', '\r', '\t'], " ");
    let parsed = lexer::tokens(&expression).and_then(|tokens| {
        let mut parser = Parser { tokens, next: 0, nodes: 0, config };
        let filter = parser.or(1)?;
        match parser.peek().kind {
            Kind::End => Ok(filter),
            _ => Err(parser.unexpected("`and`, `or` or the end")),
        }
    });
    parsed.map_err(|fault| ExpressionError {
        message: fault.message,
        offset: fault.offset,
        expression,
    })
}

struct Parser<'a> {
    /// Ends with `Kind::End`.
    tokens: Vec<Token>,
    next: usize,
    nodes: usize,
    config: &'a CollectionConfig,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(&self.peek().kind, Kind::Word(found) if found.eq_ignore_ascii_case(word))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.next += usize::from(found);
        found
    }

    fn unexpected(&self, expected: &str) -> Fault {
        let token = self.peek();
        let message = match &token.kind {
            Kind::End => format!("the filter ends where {expected} should follow"),
            _ => format!("expected {expected}, found {}", token.kind),
        };
        Fault { message, offset: token.offset }
    }

    fn count_node(&mut self, depth: usize) -> Result<(), Fault> {
        self.nodes += 1;
        let too_large = |message| Err(Fault { message, offset: self.peek().offset });
        if depth > FILTER_DEPTH_MAX {
            return too_large(format!("nested deeper than {FILTER_DEPTH_MAX} levels"));
        }
        if self.nodes > FILTER_NODES_MAX {
            return too_large(format!("more than {FILTER_NODES_MAX} conditions"));
        }
        Ok(())
    }

    fn or(&mut self, depth: usize) -> Result<Filter, Fault> {
        self.chain("or", depth, Self::and, Filter::Or)
    }

    fn and(&mut self, depth: usize) -> Result<Filter, Fault> {
        self.chain("and", depth, Self::not, Filter::And)
    }

    /// One or several terms joined by a word; one alone stays as it is.
    fn chain(
        &mut self,
        word: &str,
        depth: usize,
        term: fn(&mut Self, usize) -> Result<Filter, Fault>,
        join: fn(Vec<Filter>) -> Filter,
    ) -> Result<Filter, Fault> {
        let mut terms = vec![term(self, depth)?];
        while self.take_word(word) {
            terms.push(term(self, depth)?);
        }
        match terms.len() {
            1 => Ok(terms.remove(0)),
            _ => Ok(join(terms)),
        }
    }

    fn not(&mut self, depth: usize) -> Result<Filter, Fault> {
        self.count_node(depth)?;
        if self.take_word("not") {
            return Ok(Filter::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.peek().kind == Kind::Open {
            self.next += 1;
            let inner = self.or(depth + 1)?;
            return match self.take().kind {
                Kind::Close => Ok(inner),
                _ => {
                    self.next -= 1;
                    Err(self.unexpected("`)`"))
                }
            };
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Filter, Fault> {
        let Kind::Word(property) = self.peek().kind.clone() else {
            return Err(self.unexpected("a property name, `not` or `(`"));
        };
        let at = self.take().offset;
        let negated_list = self.is_word("not");
        if negated_list {
            self.next += 1;
            if !self.is_word("in") {
                return Err(self.unexpected("`in`"));
            }
        }
        let (operator, is_negated) = match self.operator()? {
            (operator, false) => (operator, negated_list),
            (operator, true) => (operator, true),
        };
        let value_at = self.peek().offset;
        let json = match operator {
            Operator::IsNull => Json::Bool(!is_negated),
            Operator::ContainsAny | Operator::ContainsAll => self.list()?,
            _ => self.value()?,
        };
        let value = comparison_value(self.config, &property, operator, &json).map_err(|error| {
            let is_name = error.message.contains("not in the schema");
            fault_of(&error, if is_name { at } else { value_at })
        })?;
        let compare = Filter::compare(property, operator, value);
        if is_negated && operator != Operator::IsNull {
            return Ok(Filter::Not(Box::new(compare)));
        }
        Ok(compare)
    }

    /// The operator, and whether `is not null` turns it round.
    fn operator(&mut self) -> Result<(Operator, bool), Fault> {
        if let Kind::Operator(operator) = self.peek().kind {
            self.next += 1;
            return Ok((operator, false));
        }
        if self.take_word("like") {
            return Ok((Operator::Like, false));
        }
        if self.take_word("in") {
            return Ok((Operator::ContainsAny, false));
        }
        if self.take_word("contains") {
            if self.take_word("any") {
                return Ok((Operator::ContainsAny, false));
            }
            if self.take_word("all") {
                return Ok((Operator::ContainsAll, false));
            }
            return Err(self.unexpected("`any` or `all`"));
        }
        if self.take_word("is") {
            let is_negated = self.take_word("not");
            if self.take_word("null") {
                return Ok((Operator::IsNull, is_negated));
            }
            return Err(self.unexpected(if is_negated {
                "`null`"
            } else {
                "`null` or `not null`"
            }));
        }
        Err(self.unexpected("one of = != < <= > >= like in contains is"))
    }

    fn value(&mut self) -> Result<Json, Fault> {
        let json = match &self.peek().kind {
            Kind::Literal(json) => json.clone(),
            Kind::Word(word) if word.eq_ignore_ascii_case("true") => Json::Bool(true),
            Kind::Word(word) if word.eq_ignore_ascii_case("false") => Json::Bool(false),
            Kind::Word(word) => {
                let message = format!("text needs quotes: \"{word}\"");
                return Err(Fault { message, offset: self.peek().offset });
            }
            _ => return Err(self.unexpected("a value")),
        };
        self.next += 1;
        Ok(json)
    }

    /// `[a, b]` or `(a, b)`.
    fn list(&mut self) -> Result<Json, Fault> {
        let close = match self.take().kind {
            Kind::Open => Kind::Close,
            Kind::OpenList => Kind::CloseList,
            _ => {
                self.next -= 1;
                return Err(self.unexpected("a list such as [\"a\", \"b\"]"));
            }
        };
        let mut items = vec![self.value()?];
        loop {
            match self.take().kind {
                Kind::Comma => items.push(self.value()?),
                kind if kind == close => return Ok(Json::Array(items)),
                _ => {
                    self.next -= 1;
                    return Err(self.unexpected("`,` or the end of the list"));
                }
            }
        }
    }
}

fn fault_of(error: &ApiError, offset: usize) -> Fault {
    let message = match error.expected.as_str() {
        "" => error.message.clone(),
        expected => format!("{}, expected {expected}", error.message),
    };
    Fault { message, offset }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_types::Value;

    fn config() -> CollectionConfig {
        serde_json::from_str(
            r#"{"name":"Docs","properties":[
                {"name":"year","type":"int"},{"name":"source","type":"text"},
                {"name":"when","type":"date"},{"name":"tags","type":"text[]"},
                {"name":"size","type":"number"},{"name":"open","type":"boolean"}]}"#,
        )
        .unwrap()
    }

    fn check(expression: &str, expected: &Filter) {
        assert_eq!(parse(expression, &config()).as_ref(), Ok(expected), "{expression}");
    }

    fn year(operator: Operator, year: i64) -> Filter {
        Filter::compare("year", operator, Value::Int(year))
    }

    fn source(operator: Operator, text: &str) -> Filter {
        Filter::compare("source", operator, Value::Text(text.to_owned()))
    }

    #[test]
    fn every_operator_is_read() {
        check("year = 1", &year(Operator::Equal, 1));
        check("year == -1", &year(Operator::Equal, -1));
        check("year != 1", &year(Operator::NotEqual, 1));
        check("year<>1", &year(Operator::NotEqual, 1));
        check("year<1", &year(Operator::LessThan, 1));
        check("year <= 1", &year(Operator::LessThanEqual, 1));
        check("year > 1", &year(Operator::GreaterThan, 1));
        check("year>=1", &year(Operator::GreaterThanEqual, 1));
        check("source LIKE 'p*'", &source(Operator::Like, "p*"));
        check("source is null", &Filter::compare("source", Operator::IsNull, Value::Boolean(true)));
        check(
            "source is not null",
            &Filter::compare("source", Operator::IsNull, Value::Boolean(false)),
        );
        let list = Value::TextArray(vec!["a".to_owned(), "b".to_owned()]);
        let any = Filter::compare("source", Operator::ContainsAny, list.clone());
        check("source in ['a', 'b']", &any);
        check("source in (\"a\", \"b\")", &any);
        check("source not in ('a', 'b')", &Filter::Not(Box::new(any)));
        check(
            "tags contains all ['a','b']",
            &Filter::compare("tags", Operator::ContainsAll, list.clone()),
        );
        check("tags contains any ['a','b']", &Filter::compare("tags", Operator::ContainsAny, list));
    }

    #[test]
    fn values_take_the_type_of_their_property() {
        check("open = TRUE", &Filter::compare("open", Operator::Equal, Value::Boolean(true)));
        check("size < 1e3", &Filter::compare("size", Operator::LessThan, Value::Number(1000.0)));
        check(
            "when > \"1970-01-01T00:00:01Z\"",
            &Filter::compare("when", Operator::GreaterThan, Value::Date(1_000_000)),
        );
        check(
            "_id = '00000000-0000-0000-0000-000000000001'",
            &Filter::compare(
                "_id",
                Operator::Equal,
                Value::Uuid(heddle_types::ObjectId::from_row(1)),
            ),
        );
        check(r#"source = "a \"b\" 'c' \\""#, &source(Operator::Equal, "a \"b\" 'c' \\"));
    }

    #[test]
    fn and_binds_tighter_than_or_and_not_tightest() {
        let (a, b, c) = (
            year(Operator::Equal, 1),
            year(Operator::Equal, 2),
            Filter::Not(Box::new(year(Operator::Equal, 3))),
        );
        let expected = Filter::Or(vec![a.clone(), Filter::And(vec![b.clone(), c.clone()])]);
        check("year=1 or year=2 and not year=3", &expected);
        let grouped = Filter::And(vec![Filter::Or(vec![a, b]), c]);
        check("(year=1 OR year=2) AND NOT year=3", &grouped);
        check("(year=1 || year=2) && !(year=3)", &grouped);
    }

    fn check_error(expression: &str, offset: usize, part: &str) {
        let error = parse(expression, &config()).expect_err(expression);
        assert_eq!(error.offset, offset, "{error}");
        assert!(error.message.contains(part), "{error}");
    }

    #[test]
    fn errors_point_at_the_place() {
        check_error("", 0, "ends where");
        check_error("year >= ", 8, "ends where a value");
        check_error("year >= 2020 source", 13, "`and`, `or`");
        check_error("yaer = 1", 0, "yaer");
        check_error("year = 'x'", 7, "type int");
        check_error("source = pep", 9, "quotes");
        check_error("year ~ 1", 5, "~");
        check_error("source = \"pep", 9, "not closed");
        check_error("(year = 1", 9, "`)`");
        check_error("source in []", 11, "a value");
        check_error("source is 1", 10, "null");
        check_error("year = 1..2", 7, "1..2");
        check_error("year = 99999999999999999999", 7, "int");
        check_error("\"é\" = é", 0, "property name");
    }

    #[test]
    fn the_mark_stands_below_the_fault() {
        let error = parse("source = 'é' and yaer = 1", &config()).unwrap_err();
        let lines: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
        let column = lines[2].chars().count();
        assert_eq!(lines[1].chars().nth(column - 1), Some('y'));
    }

    #[test]
    fn deep_and_long_expressions_are_refused() {
        let deep = format!("{}year=1{}", "(".repeat(5_000), ")".repeat(5_000));
        assert!(parse(&deep, &config()).unwrap_err().message.contains("deeper"));
        let long = vec!["year=1"; FILTER_NODES_MAX + 1].join(" or ");
        assert!(parse(&long, &config()).unwrap_err().message.contains("more than"));
    }
}
