//! Filters against the definition: a scan that evaluates every object by itself.

use std::collections::BTreeMap;

use heddle_types::filter::{PROPERTY_CREATED, PROPERTY_ID, PROPERTY_UPDATED};
use heddle_types::limits::INDEXED_TEXT_BYTES_MAX;
use heddle_types::row::encode_row;
use heddle_types::{CollectionConfig, Filter, ObjectId, Operator, Properties, Slot, Value};

use super::*;
use crate::testing::Random;
use crate::validate::check_filter;

const SCHEMA: &str = r#"{"name":"Docs","index_timestamps":true,"properties":[
    {"name":"text","type":"text"},{"name":"texts","type":"text[]"},
    {"name":"int","type":"int"},{"name":"ints","type":"int[]"},
    {"name":"number","type":"number"},{"name":"numbers","type":"number[]"},
    {"name":"truth","type":"boolean"},{"name":"truths","type":"boolean[]"},
    {"name":"date","type":"date"},{"name":"dates","type":"date[]"},
    {"name":"uuid","type":"uuid"},{"name":"uuids","type":"uuid[]"},
    {"name":"place","type":"geo"},{"name":"raw","type":"blob"},
    {"name":"who","type":"object","properties":[{"name":"age","type":"int"}]},
    {"name":"hidden","type":"int","filterable":false}]}"#;

fn config() -> CollectionConfig {
    let mut config: CollectionConfig = serde_json::from_str(SCHEMA).unwrap();
    config.fill_defaults();
    config
}

struct Row {
    id: ObjectId,
    created_us: i64,
    updated_us: i64,
    properties: Properties,
}

impl Row {
    fn passes(&self, filter: &Filter) -> bool {
        matches(
            filter,
            &FilterFacts {
                id: self.id,
                created_us: self.created_us,
                updated_us: self.updated_us,
                properties: &self.properties,
            },
        )
    }
}

/// An index and, beside it, the objects it was told about.
struct Bench {
    index: PropertyIndex,
    rows: BTreeMap<Slot, Row>,
}

impl Bench {
    fn new() -> Self {
        Self { index: PropertyIndex::new(&config()), rows: BTreeMap::new() }
    }

    fn insert(&mut self, slot: Slot, row: Row) {
        let values = values_of(&self.index, &row.properties);
        self.index.insert(slot, values, row.created_us, row.updated_us);
        self.rows.insert(slot, row);
    }

    fn with(mut self, slot: Slot, properties: &[(&str, Value)]) -> Self {
        let properties =
            properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let id = ObjectId::from_row(u64::from(slot));
        let time = i64::from(slot) * 10;
        self.insert(slot, Row { id, created_us: time, updated_us: time + 5, properties });
        self
    }

    fn kill(&mut self, slot: Slot) {
        self.index.kill(slot);
        self.rows.remove(&slot);
    }

    /// Slots by the index, undecided ones settled by their row as the engine does.
    fn evaluate(&self, filter: &Filter) -> Vec<Slot> {
        check_filter(&config(), filter).unwrap_or_else(|error| panic!("{filter:?}: {error}"));
        let slot_of =
            |id: &ObjectId| self.rows.iter().find(|(_, row)| row.id == *id).map(|(slot, _)| *slot);
        let bounds = self.index.evaluate(filter, &slot_of);
        assert!(bounds.sure.is_disjoint(&bounds.maybe), "{filter:?}");
        let settled = bounds.maybe.iter().filter(|slot| self.rows[slot].passes(filter));
        let mut slots: Vec<Slot> = bounds.sure.iter().chain(settled).collect();
        slots.sort_unstable();
        slots
    }

    fn scan(&self, filter: &Filter) -> Vec<Slot> {
        self.rows.iter().filter(|(_, row)| row.passes(filter)).map(|(slot, _)| *slot).collect()
    }

    /// The index gives `expected`, and so does the definition.
    fn check(&self, filter: &Filter, expected: &[Slot]) {
        assert_eq!(self.scan(filter), expected, "definition of {filter:?}");
        assert_eq!(self.evaluate(filter), expected, "index for {filter:?}");
    }
}

fn values_of(index: &PropertyIndex, properties: &Properties) -> RowValues {
    let mut row = Vec::new();
    encode_row(properties, &mut row).unwrap();
    index.values_of(&row).unwrap()
}

fn is(property: &str, operator: Operator, value: Value) -> Filter {
    Filter::compare(property, operator, value)
}

fn not(filter: Filter) -> Filter {
    Filter::Not(Box::new(filter))
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn absent_values_pass_nothing_but_is_null_and_not() {
    let bench = Bench::new()
        .with(1, &[("int", Value::Int(5))])
        .with(2, &[])
        .with(3, &[("int", Value::Int(6)), ("text", text("a"))]);
    bench.check(&is("int", Operator::Equal, Value::Int(5)), &[1]);
    bench.check(&is("int", Operator::NotEqual, Value::Int(5)), &[3]);
    bench.check(&not(is("int", Operator::Equal, Value::Int(5))), &[2, 3]);
    bench.check(&not(is("int", Operator::NotEqual, Value::Int(5))), &[1, 2]);
    bench.check(&is("int", Operator::IsNull, Value::Boolean(true)), &[2]);
    bench.check(&is("int", Operator::IsNull, Value::Boolean(false)), &[1, 3]);
    bench.check(&is("int", Operator::LessThan, Value::Int(100)), &[1, 3]);
    bench.check(&is("text", Operator::Like, text("*")), &[3]);
    bench.check(&not(is("text", Operator::Like, text("*"))), &[1, 2]);
}

#[test]
fn arrays_hold_values_and_ranges_ask_for_some_element() {
    let bench = Bench::new()
        .with(1, &[("ints", Value::IntArray(vec![1, 5, 5]))])
        .with(2, &[("ints", Value::IntArray(vec![]))])
        .with(3, &[("ints", Value::IntArray(vec![7]))])
        .with(4, &[]);
    bench.check(&is("ints", Operator::Equal, Value::Int(5)), &[1]);
    bench.check(&is("ints", Operator::NotEqual, Value::Int(5)), &[2, 3]);
    bench.check(&is("ints", Operator::GreaterThan, Value::Int(4)), &[1, 3]);
    bench.check(&is("ints", Operator::LessThan, Value::Int(4)), &[1]);
    bench.check(&is("ints", Operator::ContainsAny, Value::IntArray(vec![7, 1])), &[1, 3]);
    bench.check(&is("ints", Operator::ContainsAll, Value::IntArray(vec![5, 1])), &[1]);
    bench.check(&is("ints", Operator::IsNull, Value::Boolean(true)), &[4]);
}

#[test]
fn ranges_follow_the_order_of_each_type() {
    let bench = Bench::new()
        .with(1, &[("number", Value::Number(-0.0)), ("text", text("B")), ("date", Value::Date(-1))])
        .with(2, &[("number", Value::Number(1e9)), ("text", text("a")), ("date", Value::Date(0))])
        .with(3, &[("number", Value::Number(-1e-9)), ("text", text("é"))]);
    bench.check(&is("number", Operator::Equal, Value::Number(0.0)), &[1]);
    bench.check(&is("number", Operator::GreaterThanEqual, Value::Number(0.0)), &[1, 2]);
    bench.check(&is("number", Operator::LessThan, Value::Number(-0.0)), &[3]);
    bench.check(&is("text", Operator::LessThan, text("a")), &[1]);
    bench.check(&is("text", Operator::GreaterThan, text("a")), &[3]);
    bench.check(&is("text", Operator::LessThanEqual, text("a")), &[1, 2]);
    bench.check(&is("date", Operator::LessThan, Value::Date(0)), &[1]);
}

#[test]
fn ids_and_times_are_properties_too() {
    let bench = Bench::new().with(1, &[]).with(2, &[]).with(3, &[]);
    let id = |row| Value::Uuid(ObjectId::from_row(row));
    let ids =
        |rows: &[u64]| Value::UuidArray(rows.iter().map(|r| ObjectId::from_row(*r)).collect());
    bench.check(&is(PROPERTY_ID, Operator::Equal, id(2)), &[2]);
    bench.check(&is(PROPERTY_ID, Operator::Equal, id(9)), &[]);
    bench.check(&is(PROPERTY_ID, Operator::NotEqual, id(2)), &[1, 3]);
    bench.check(&is(PROPERTY_ID, Operator::ContainsAny, ids(&[3, 1, 9])), &[1, 3]);
    bench.check(&is(PROPERTY_ID, Operator::ContainsAll, ids(&[3])), &[3]);
    bench.check(&is(PROPERTY_ID, Operator::ContainsAll, ids(&[3, 3])), &[3]);
    bench.check(&is(PROPERTY_ID, Operator::ContainsAll, ids(&[3, 1])), &[]);
    bench.check(&is(PROPERTY_ID, Operator::ContainsAll, ids(&[3, 1, 3])), &[]);
    bench.check(&is(PROPERTY_ID, Operator::ContainsAll, ids(&[9, 3])), &[]);
    bench.check(&is(PROPERTY_ID, Operator::IsNull, Value::Boolean(false)), &[1, 2, 3]);
    bench.check(&is(PROPERTY_ID, Operator::IsNull, Value::Boolean(true)), &[]);
    bench.check(&is(PROPERTY_CREATED, Operator::GreaterThan, Value::Date(10)), &[2, 3]);
    bench.check(&is(PROPERTY_UPDATED, Operator::LessThanEqual, Value::Date(25)), &[1, 2]);
}

#[test]
fn types_without_an_order_of_their_own_know_presence() {
    let bench = Bench::new()
        .with(1, &[("raw", Value::Blob(vec![1]))])
        .with(2, &[])
        .with(3, &[("who", Value::Object(Properties::new()))]);
    bench.check(&is("raw", Operator::IsNull, Value::Boolean(false)), &[1]);
    bench.check(&is("who", Operator::IsNull, Value::Boolean(true)), &[1, 2]);
    bench.check(&is("place", Operator::IsNull, Value::Boolean(true)), &[1, 2, 3]);
}

#[test]
fn empty_groups_are_true_and_false() {
    let bench = Bench::new().with(1, &[]).with(2, &[]);
    bench.check(&Filter::And(vec![]), &[1, 2]);
    bench.check(&Filter::Or(vec![]), &[]);
    bench.check(&not(Filter::And(vec![])), &[]);
}

#[test]
fn long_texts_are_settled_by_the_row() {
    let shared = "x".repeat(INDEXED_TEXT_BYTES_MAX);
    let (low, high) = (format!("{shared}a-end"), format!("{shared}z-end"));
    // A character that would be cut in half stays out of the kept prefix.
    let wide = format!("{}é-end", "x".repeat(INDEXED_TEXT_BYTES_MAX - 1));
    let bench = Bench::new()
        .with(1, &[("text", text(&low))])
        .with(2, &[("text", text(&high))])
        .with(3, &[("text", text(&shared))])
        .with(4, &[("texts", Value::TextArray(vec![low.clone(), "short".to_owned()]))])
        .with(5, &[("text", text(&wide))]);
    bench.check(&is("text", Operator::Equal, text(&low)), &[1]);
    bench.check(&is("text", Operator::NotEqual, text(&low)), &[2, 3, 5]);
    bench.check(&not(is("text", Operator::Equal, text(&low))), &[2, 3, 4, 5]);
    bench.check(&is("text", Operator::GreaterThan, text(&shared)), &[1, 2, 5]);
    bench.check(&is("text", Operator::GreaterThan, text(&low)), &[2, 5]);
    bench.check(&is("text", Operator::LessThanEqual, text(&low)), &[1, 3]);
    bench.check(&is("text", Operator::LessThan, text("y")), &[1, 2, 3, 5]);
    bench.check(&is("text", Operator::Like, text("*-end")), &[1, 2, 5]);
    bench.check(&is("text", Operator::Like, text("xx*")), &[1, 2, 3, 5]);
    bench.check(&is("text", Operator::Like, text(&format!("{shared}a*"))), &[1]);
    bench.check(&is("text", Operator::Like, text(&wide)), &[5]);
    let both = Value::TextArray(vec![low.clone(), "short".to_owned()]);
    bench.check(&is("texts", Operator::ContainsAll, both.clone()), &[4]);
    bench.check(&not(is("texts", Operator::ContainsAny, both)), &[1, 2, 3, 5]);
}

#[test]
fn filters_that_do_not_fit_the_schema_are_refused() {
    let config = config();
    let code = |filter: &Filter| check_filter(&config, filter).unwrap_err().code;
    use heddle_types::ErrorCode::{InvalidFilter, InvalidProperty, TooLarge};
    assert_eq!(code(&is("nope", Operator::Equal, Value::Int(1))), InvalidProperty);
    assert_eq!(code(&is("hidden", Operator::Equal, Value::Int(1))), InvalidFilter);
    assert_eq!(code(&is("int", Operator::Equal, text("1"))), InvalidProperty);
    assert_eq!(code(&is("int", Operator::Like, text("1"))), InvalidFilter);
    assert_eq!(code(&is("truth", Operator::LessThan, Value::Boolean(true))), InvalidFilter);
    assert_eq!(code(&is("raw", Operator::Equal, Value::Blob(vec![]))), InvalidFilter);
    assert_eq!(code(&is("int", Operator::IsNull, Value::Int(1))), InvalidProperty);
    assert_eq!(code(&is("ints", Operator::ContainsAny, Value::IntArray(vec![]))), InvalidFilter);
    assert_eq!(code(&is("number", Operator::Equal, Value::Number(f64::NAN))), InvalidProperty);
    let long = text(&"*".repeat(2 * INDEXED_TEXT_BYTES_MAX + 1));
    assert_eq!(code(&is("text", Operator::Like, long)), TooLarge);
    let many = Filter::And(vec![Filter::Or(vec![]); 2_000]);
    assert_eq!(code(&many), TooLarge);
    let mut deep = Filter::And(vec![]);
    for _ in 0..20 {
        deep = not(deep);
    }
    assert_eq!(code(&deep), TooLarge);
    let plain = CollectionConfig { index_timestamps: false, ..config.clone() };
    let by_time = is(PROPERTY_CREATED, Operator::LessThan, Value::Date(0));
    assert_eq!(check_filter(&plain, &by_time).unwrap_err().code, InvalidFilter);
}

fn random_text(random: &mut Random) -> String {
    if random.below(8) == 0 {
        let tail = ["", "a", "b", "ab"][random.below(4)];
        return format!("{}{tail}", "long".repeat(INDEXED_TEXT_BYTES_MAX / 4));
    }
    let alphabet = ['a', 'b', 'é', '*', 'A'];
    (0..random.below(4)).map(|_| alphabet[random.below(alphabet.len())]).collect()
}

fn random_scalar(random: &mut Random, name: &str) -> Value {
    match name.trim_end_matches('s') {
        "text" => Value::Text(random_text(random)),
        "int" => Value::Int(random.below(6) as i64 - 3),
        "number" => Value::Number([-1.5, -0.0, 0.0, 2.0, 1e300][random.below(5)]),
        "truth" => Value::Boolean(random.below(2) == 0),
        "date" => Value::Date(random.below(4) as i64),
        _ => Value::Uuid(ObjectId::from_row(random.below(5) as u64)),
    }
}

fn array_of(values: Vec<Value>) -> Value {
    macro_rules! collect {
        ($($scalar:ident => $array:ident),*) => {
            match values.first() {
                $(Some(Value::$scalar(_)) => Value::$array(values.into_iter().map(|value| {
                    let Value::$scalar(inner) = value else { unreachable!("one type") };
                    inner
                }).collect()),)*
                _ => unreachable!("arrays here are not empty"),
            }
        };
    }
    collect!(Text => TextArray, Int => IntArray, Number => NumberArray, Boolean => BooleanArray,
        Date => DateArray, Uuid => UuidArray)
}

const NAMES: [&str; 12] = [
    "text", "texts", "int", "ints", "number", "numbers", "truth", "truths", "date", "dates",
    "uuid", "uuids",
];

fn random_row(random: &mut Random, slot: Slot) -> Row {
    let mut properties = Properties::new();
    for name in NAMES {
        if random.below(3) == 0 {
            continue;
        }
        let value = if name.ends_with('s') {
            let count = 1 + random.below(3);
            array_of((0..count).map(|_| random_scalar(random, name)).collect())
        } else {
            random_scalar(random, name)
        };
        properties.insert(name.to_owned(), value);
    }
    let created_us = random.below(50) as i64;
    let updated_us = created_us + random.below(50) as i64;
    Row { id: ObjectId::from_row(u64::from(slot)), created_us, updated_us, properties }
}

fn random_compare(random: &mut Random) -> Filter {
    let choice = random.below(NAMES.len() + 3);
    let name = match choice.checked_sub(NAMES.len()) {
        None => NAMES[choice],
        Some(0) => PROPERTY_ID,
        Some(1) => PROPERTY_CREATED,
        Some(_) => PROPERTY_UPDATED,
    };
    let scalar = |random: &mut Random| match name {
        PROPERTY_ID => Value::Uuid(ObjectId::from_row(random.below(200) as u64)),
        PROPERTY_CREATED | PROPERTY_UPDATED => Value::Date(random.below(100) as i64),
        name => random_scalar(random, name),
    };
    loop {
        let operator = Operator::ALL[random.below(Operator::ALL.len())];
        let value = match operator {
            Operator::IsNull => Value::Boolean(random.below(2) == 0),
            Operator::ContainsAny | Operator::ContainsAll => {
                let count = 1 + random.below(3);
                array_of((0..count).map(|_| scalar(random)).collect())
            }
            Operator::Like => {
                let patterns = ["*", "a*", "?", "*b", "é?", r"\*", "long*", "*a*", "long*b", ""];
                text(patterns[random.below(patterns.len())])
            }
            _ => scalar(random),
        };
        let filter = is(name, operator, value);
        if check_filter(&config(), &filter).is_ok() {
            return filter;
        }
    }
}

fn random_filter(random: &mut Random, depth: usize) -> Filter {
    match random.below(if depth == 0 { 1 } else { 5 }) {
        0 | 1 => random_compare(random),
        2 => not(random_filter(random, depth - 1)),
        kind => {
            let count = random.below(4);
            let children = (0..count).map(|_| random_filter(random, depth - 1)).collect();
            if kind == 3 { Filter::And(children) } else { Filter::Or(children) }
        }
    }
}

#[test]
fn random_filters_agree_with_a_scan_of_random_objects() {
    for seed in 0..30 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut bench = Bench::new();
        for slot in 0..150 {
            let row = random_row(&mut random, slot);
            bench.insert(slot, row);
        }
        for slot in 0..150 {
            if random.below(4) == 0 {
                bench.kill(slot);
            }
        }
        for round in 0..60 {
            let filter = random_filter(&mut random, 3);
            assert_eq!(bench.evaluate(&filter), bench.scan(&filter), "{round}: {filter:?}");
        }
    }
}

#[test]
fn reclaimed_slots_leave_nothing_behind_and_can_be_used_again() {
    for seed in 0..10 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut bench = Bench::new();
        let mut expected = Bench::new();
        let mut dead = RoaringBitmap::new();
        for slot in 0..120 {
            let row = random_row(&mut random, slot);
            if slot % 3 != 0 {
                let Row { id, created_us, updated_us, properties } = &row;
                let (id, created_us, updated_us) = (*id, *created_us, *updated_us);
                let copy = Row { id, created_us, updated_us, properties: properties.clone() };
                expected.insert(slot, copy);
            }
            bench.insert(slot, row);
        }
        for slot in (0..120).step_by(3) {
            bench.kill(slot);
            dead.insert(slot);
        }
        let mut cursor = ReclaimCursor::default();
        let budget = 1 + random.below(5);
        while bench.index.reclaim_step(&dead, &mut cursor, budget) {}
        assert_eq!(bench.index.live, expected.index.live);
        for (left, right) in bench.index.fields.iter().zip(&expected.index.fields) {
            let all = Filter::And(vec![]);
            assert_eq!(bench.evaluate(&all), expected.evaluate(&all));
            assert_eq!(left.present, right.present, "{}", left.name);
        }
        for slot in (0..120).step_by(3) {
            let row = random_row(&mut random, slot);
            bench.insert(slot, row);
        }
        for _ in 0..40 {
            let filter = random_filter(&mut random, 3);
            assert_eq!(bench.evaluate(&filter), bench.scan(&filter), "{filter:?}");
        }
    }
}

#[test]
fn objects_added_in_bulk_make_the_same_index() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut bench = Bench::new();
        let mut bulk = PropertyIndex::new(&config());
        // With nothing there, and beside what is there already.
        let mut slot = 0;
        for _ in 0..2 {
            bulk.begin_bulk();
            for _ in 0..100 {
                let row = random_row(&mut random, slot);
                let values = values_of(&bulk, &row.properties);
                bulk.insert(slot, values, row.created_us, row.updated_us);
                bench.insert(slot, row);
                slot += 1;
                if slot % 70 == 0 {
                    // Sorted in before the end, because much waits.
                    let (waiting, memory) = (bulk.waiting_bytes(), bulk.memory_bytes());
                    assert!(0 < waiting && waiting < memory, "{waiting} bytes wait of {memory}");
                    bulk.end_bulk();
                    assert_eq!(bulk.waiting_bytes(), 0);
                    bulk.begin_bulk();
                }
            }
            bulk.end_bulk();
            assert!(bulk.fields == bench.index.fields && bulk.live == bench.index.live);
        }
        for _ in 0..10 {
            let filter = random_filter(&mut random, 3);
            assert_eq!(bench.evaluate(&filter), bench.scan(&filter), "{filter:?}");
        }
    }
}

#[test]
fn images_round_trip_in_chunks_and_leave_later_slots_out() {
    for seed in 0..10 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut bench = Bench::new();
        let mut before = Bench::new();
        for slot in 0..200 {
            let row = random_row(&mut random, slot);
            let Row { id, created_us, updated_us, properties } = &row;
            let (id, created_us, updated_us) = (*id, *created_us, *updated_us);
            let copy = Row { id, created_us, updated_us, properties: properties.clone() };
            bench.insert(slot, row);
            if slot < 130 {
                before.insert(slot, copy);
            }
        }
        let mut restored = Bench { index: PropertyIndex::new(&config()), rows: before.rows };
        let mut cursor = PropertyCursor::default();
        let mut chunks = 0;
        loop {
            let mut chunk = Vec::new();
            let more = bench.index.encode_chunk(&mut cursor, 130, 500, &mut chunk);
            restored.index.decode_chunk(&chunk, 130).unwrap();
            chunks += 1;
            for length in 0..chunk.len() {
                let mut other = PropertyIndex::new(&config());
                // A prefix is either a whole number of entries or refused; it never panics.
                let _ = other.decode_chunk(&chunk[..length], 130);
            }
            if !more {
                break;
            }
        }
        assert!(chunks > 5, "{chunks}");
        restored.index.set_live((0..130).collect());
        for _ in 0..60 {
            let filter = random_filter(&mut random, 3);
            assert_eq!(restored.evaluate(&filter), restored.scan(&filter), "{filter:?}");
        }
    }
}

#[test]
fn damaged_chunks_are_refused_or_harmless() {
    let mut random = Random::new(7);
    let mut bench = Bench::new();
    for slot in 0..60 {
        let row = random_row(&mut random, slot);
        bench.insert(slot, row);
    }
    let mut chunk = Vec::new();
    let more = bench.index.encode_chunk(&mut PropertyCursor::default(), 60, 1 << 20, &mut chunk);
    assert!(!more, "one chunk is enough");
    let mut refused = 0;
    for position in 0..chunk.len().min(4_000) {
        let mut damaged = chunk.clone();
        damaged[position] ^= 1 << random.below(8);
        let mut index = PropertyIndex::new(&config());
        refused += usize::from(index.decode_chunk(&damaged, 60).is_err());
        index.set_live((0..60).collect());
        let all = index.evaluate(&is("int", Operator::IsNull, Value::Boolean(false)), &|_| None);
        assert!(all.sure.max().is_none_or(|slot| slot < 60));
    }
    assert!(refused > 100, "{refused}");
}
