//! `heddle get`, `heddle search` and `heddle count`.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use heddle_bench::vectors::VectorFile;
use heddle_client::{Hit, Search, SearchResult, StoredObject, Want};
use heddle_types::json::{date_to_text, properties_to_json};
use heddle_types::limits::SEARCH_K_MAX;
use heddle_types::{ObjectId, Properties, Value};
use serde_json::{Value as Json, json};

use crate::cli;
use crate::failure::Failure;
use crate::import::rows::id_from_text;
use crate::output::{Style, duration, grouped, print_json, shortened};
use crate::session;

/// Characters of a property value that a list shows.
const VALUE_WIDTH: usize = 100;
/// Components of a vector that are shown without `--json`.
const COMPONENTS_SHOWN: usize = 8;

pub(crate) async fn get(arguments: &cli::Get) -> Result<(), Failure> {
    let id = id_from_text(&arguments.id)?;
    let client = session::connect(&arguments.connection).await?;
    let want = Want { vectors: arguments.vector, ..Want::ALL };
    let collection = session::collection(&client, &arguments.name, arguments.consistency)
        .tenant(&arguments.tenant);
    let found = collection.get_batch(&[id], want).await?;
    let Some(object) = found.into_iter().next().transpose()?.flatten() else {
        return Err(Failure::not_found(format!("{} has no object {id}", arguments.name)));
    };
    if arguments.json {
        return print_json(&object_json(&object));
    }
    print_object(&object);
    Ok(())
}

fn object_json(object: &StoredObject) -> Json {
    let mut json = json!({
        "id": object.id,
        "created": date_to_text(object.created_us),
        "updated": date_to_text(object.updated_us),
        "stamp": object.stamp.0,
        "properties": object.properties.as_ref().map(properties_to_json),
    });
    if !object.vectors.is_empty() {
        json["vectors"] = json!(object.vectors);
    }
    json
}

fn print_object(object: &StoredObject) {
    let style = Style::of_stdout();
    println!("{}", style.bold(&object.id.to_string()));
    println!("  {}  {}", style.dim("created"), date_to_text(object.created_us));
    println!("  {}  {}", style.dim("updated"), date_to_text(object.updated_us));
    for (name, value) in object.properties.iter().flatten() {
        println!("  {}  {}", style.dim(name), value_text(value));
    }
    for (name, values) in &object.vectors {
        let name = if name.is_empty() { "vector" } else { name };
        let shown: Vec<String> =
            values.iter().take(COMPONENTS_SHOWN).map(|value| format!("{value:.4}")).collect();
        let more = if values.len() > COMPONENTS_SHOWN { ", …" } else { "" };
        let shown = shown.join(", ");
        println!("  {}  [{shown}{more}] ({} components)", style.dim(name), values.len());
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        other => heddle_types::json::value_to_json(other).to_string(),
    }
}

pub(crate) async fn count(arguments: &cli::Count) -> Result<(), Failure> {
    let client = session::connect(&arguments.connection).await?;
    let config = client.collection_config(&arguments.name).await?;
    let (expression, json) = (arguments.filter.as_deref(), arguments.filter_json.as_deref());
    let filter = session::read_filter(expression, json, &config)?;
    let collection = session::collection(&client, &arguments.name, arguments.consistency)
        .tenant(&arguments.tenant);
    let count = collection.count(filter.as_ref()).await?;
    if arguments.json {
        return print_json(&json!({ "collection": arguments.name, "count": count }));
    }
    println!("{count}");
    Ok(())
}

pub(crate) async fn search(arguments: &cli::Search) -> Result<(), Failure> {
    // One more than k is asked for with --like.
    if arguments.like.is_some() && arguments.k >= SEARCH_K_MAX {
        return Err(Failure::usage(format!("--k must be 1 to {} with --like", SEARCH_K_MAX - 1)));
    }
    let client = session::connect(&arguments.connection).await?;
    let config = client.collection_config(&arguments.name).await?;
    let (expression, json) = (arguments.filter.as_deref(), arguments.filter_json.as_deref());
    let filter = session::read_filter(expression, json, &config)?;
    let like = arguments.like.as_deref().map(id_from_text).transpose()?;
    let mut search = match (&like, &arguments.vector, &arguments.row) {
        // The object itself is its own nearest neighbour, and no news.
        (Some(id), _, _) => Search::near_object(*id).k(arguments.k + 1),
        (None, Some(text), _) => Search::near(vector_of(text)?).k(arguments.k),
        (None, None, Some(place)) => Search::near(row_of(place)?).k(arguments.k),
        (None, None, None) => return Err(Failure::usage("give --vector, --like or --row")),
    };
    search = search.ef(arguments.ef).in_vector(&arguments.vector_name).with_properties();
    if let Some(filter) = filter {
        search = search.filter(filter);
    }
    let collection = session::collection(&client, &arguments.name, arguments.consistency)
        .tenant(&arguments.tenant);
    let start = Instant::now();
    let mut result = collection.search(&search).await?;
    let elapsed = start.elapsed();
    result.hits.retain(|hit| Some(hit.id) != like);
    result.hits.truncate(arguments.k as usize);
    if arguments.json {
        return print_json(&json!({
            "hits": result.hits.iter().map(hit_json).collect::<Vec<_>>(),
            "evaluations": result.evaluations,
            "queue_us": result.queue_us,
            "server_us": result.server_us,
            "client_us": u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        }));
    }
    print_hits(&result, elapsed);
    Ok(())
}

fn vector_of(text: &str) -> Result<Vec<f32>, Failure> {
    let mut input = text.to_owned();
    if text == "-" {
        input.clear();
        std::io::stdin().read_to_string(&mut input)?;
    }
    serde_json::from_str(&input)
        .map_err(|error| Failure::usage(format!("--vector is no array of numbers: {error}")))
}

/// The row that `FILE:N` names.
fn row_of(place: &str) -> Result<Vec<f32>, Failure> {
    let parts = place.rsplit_once(':');
    let parts = parts.and_then(|(path, row)| Some((Path::new(path), row.parse::<usize>().ok()?)));
    let Some((path, row)) = parts else {
        return Err(Failure::usage(format!("--row {place}: expected FILE:N, such as q.npy:0")));
    };
    let file = VectorFile::open(path)?;
    if row >= file.rows() {
        let problem = format!("--row {place}: the file has {} rows", file.rows());
        return Err(Failure::usage(problem));
    }
    let mut values = Vec::new();
    file.read_rows(row, 1, &mut values)?;
    Ok(values)
}

fn hit_json(hit: &Hit) -> Json {
    let properties = hit.object.as_ref().and_then(|object| object.properties.as_ref());
    json!({
        "id": hit.id,
        "distance": hit.distance,
        "properties": properties.map(properties_to_json),
    })
}

fn print_hits(result: &SearchResult, elapsed: std::time::Duration) {
    let style = Style::of_stdout();
    for (index, hit) in result.hits.iter().enumerate() {
        let rank = format!("{:>3}", index + 1);
        println!("{rank}  {:>8.4}  {}", hit.distance, id_text(&hit.id, style));
        let properties = hit.object.as_ref().and_then(|object| object.properties.as_ref());
        if let Some(line) = properties.map(summary).filter(|line| !line.is_empty()) {
            println!("               {line}");
        }
    }
    let evaluations = grouped(u64::from(result.evaluations));
    println!(
        "{}",
        style.dim(&format!(
            "{} hits in {} ({} us at the server, {evaluations} distances)",
            result.hits.len(),
            duration(elapsed),
            result.server_us
        ))
    );
}

/// A row number in bold where the id is one.
fn id_text(id: &ObjectId, style: Style) -> String {
    match u64::try_from(id.as_u128()) {
        Ok(row) => format!("{id}  {}", style.dim(&format!("row {row}"))),
        Err(_) => id.to_string(),
    }
}

/// Short properties first, the longest text last.
fn summary(properties: &Properties) -> String {
    let mut values: Vec<(&String, String)> =
        properties.iter().map(|(name, value)| (name, value_text(value))).collect();
    values.sort_by_key(|(_, text)| text.len());
    let shown =
        values.iter().map(|(name, text)| format!("{name}={}", shortened(text, VALUE_WIDTH)));
    shown.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_named_by_file_and_number() {
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/demo-data/queries.npy");
        assert_eq!(row_of(&format!("{demo}:199")).unwrap().len(), 384);
        for bad in [format!("{demo}:200"), demo.to_owned(), format!("{demo}:x")] {
            assert!(row_of(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_longest_text_comes_last() {
        let properties = Properties::from([
            ("a".to_owned(), Value::Text("a longer text".to_owned())),
            ("b".to_owned(), Value::Int(7)),
        ]);
        assert_eq!(summary(&properties), "b=7  a=a longer text");
    }
}
