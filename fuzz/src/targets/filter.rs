//! Filters in their flat wire form.

use heddle_types::{Filter, ObjectId, Operator, Value};

/// Decodes a filter; one that is accepted must survive another round.
pub fn run(data: &[u8]) {
    let Ok(filter) = Filter::decode(data) else { return };
    let encoded = filter.encode().expect("a decoded filter is within every limit");
    let again = Filter::decode(&encoded).expect("an encoded filter decodes");
    assert_eq!(filter, again, "a filter changed in a round trip");
}

/// Each operator, each connective, nested.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let values = [
        Value::Text("wa*p".to_owned()),
        Value::Int(7),
        Value::TextArray(vec!["a".to_owned(), "b".to_owned()]),
        Value::Boolean(false),
        Value::Uuid(ObjectId::from_row(1)),
    ];
    let mut filters: Vec<Filter> = Operator::ALL
        .into_iter()
        .zip(values.iter().cycle())
        .map(|(operator, value)| Filter::compare("title", operator, value.clone()))
        .collect();
    let all = Filter::And(filters.clone());
    filters.push(Filter::Or(vec![
        all.clone(),
        Filter::Not(Box::new(all.clone())),
        Filter::Or(vec![]),
    ]));
    filters.push(all);
    filters.push(Filter::Not(Box::new(Filter::And(vec![]))));
    filters.iter().map(|filter| filter.encode().expect("seeds are within every limit")).collect()
}
