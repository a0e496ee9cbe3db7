//! `heddle collection`: create, list, show and drop.

use std::fmt;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use heddle_client::Client;
use heddle_types::Labels;
use heddle_types::schema::{
    CollectionConfig, DataType, IndexType, MultiTenancyConfig, PropertyConfig, Quantization,
    RawVectors, VectorConfig,
};

use crate::cli::{Collection, CollectionCreate, Connection};
use crate::failure::Failure;
use crate::import::progress::forget_collection;
use crate::output::{Style, Table, grouped, print_json};
use crate::session;

pub(crate) async fn run(action: &Collection) -> Result<(), Failure> {
    match action {
        Collection::Create(arguments) => create(arguments).await,
        Collection::List { connection, json } => list(connection, *json).await,
        Collection::Show { name, connection, json } => show(name, connection, *json).await,
        Collection::Drop { name, yes, connection, json } => {
            let held = drop_one(name, *yes, connection).await?;
            if *json {
                let (objects, tenants) = (held.objects(), held.tenants());
                return print_json(
                    &serde_json::json!({ "dropped": name, "objects": objects, "tenants": tenants }),
                );
            }
            println!("dropped collection {name} with {held}");
            Ok(())
        }
    }
}

async fn create(arguments: &CollectionCreate) -> Result<(), Failure> {
    let mut config = match &arguments.file {
        Some(path) => read_definition(path)?,
        None => definition(arguments)?,
    };
    if let Some(name) = &arguments.name {
        config.name.clone_from(name);
    }
    config.fill_defaults();
    config.validate().map_err(|error| Failure::usage(error.to_string()))?;
    let client = session::connect(&arguments.connection).await?;
    let created = client.create_collection(&config).await?;
    if arguments.json {
        return print_json(&created);
    }
    println!("created collection {}", created.name);
    Ok(())
}

fn read_definition(path: &Path) -> Result<CollectionConfig, Failure> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(path).map_err(|error| Failure::input(path, error))?;
    }
    serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn definition(arguments: &CollectionCreate) -> Result<CollectionConfig, Failure> {
    let mut config = CollectionConfig::default();
    for text in &arguments.properties {
        config.properties.push(property(text)?);
    }
    let mut vector = VectorConfig {
        dims: arguments.dims,
        distance: arguments.distance,
        quantization: arguments.quantization,
        raw: arguments.raw,
        ..VectorConfig::default()
    };
    vector.index.m = arguments.m.unwrap_or(vector.index.m);
    let ef_construction = arguments.ef_construction;
    vector.index.ef_construction = ef_construction.unwrap_or(vector.index.ef_construction);
    vector.index.ef = arguments.ef.unwrap_or(vector.index.ef);
    config.vectors.push(vector);
    config.sharding.count = arguments.shards.unwrap_or(config.sharding.count);
    config.replication.factor = arguments.replication.unwrap_or(config.replication.factor);
    config.replication.deletion_strategy = arguments.deletion_strategy.unwrap_or_default();
    config.multi_tenancy = MultiTenancyConfig {
        enabled: arguments.tenants,
        auto_create: arguments.auto_create,
        auto_activate: arguments.auto_activate,
    };
    config.placement.require = labels("--require", &arguments.require)?;
    config.placement.avoid = labels("--avoid", &arguments.avoid)?;
    Ok(config)
}

/// Reads labels of the form `KEY=VALUE`.
fn labels(flag: &str, texts: &[String]) -> Result<Labels, Failure> {
    let mut labels = Labels::new();
    for text in texts {
        let Some((key, value)) = text.split_once('=') else {
            return Err(Failure::usage(format!(
                "{flag} {text}: expected KEY=VALUE, such as zone=a"
            )));
        };
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::usage(format!("{flag} {text}: {key} is given twice")));
        }
    }
    Ok(labels)
}

/// Reads `NAME:TYPE` or `NAME:TYPE:nofilter`.
fn property(text: &str) -> Result<PropertyConfig, Failure> {
    let refuse = |problem: String| Err(Failure::usage(format!("--property {text}: {problem}")));
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default().to_owned();
    let Some(type_name) = parts.next() else {
        return refuse("expected NAME:TYPE, such as year:int".to_owned());
    };
    let Some(data_type) = DataType::from_name(type_name) else {
        let names: Vec<&str> = DataType::ALL.iter().map(|known| known.name()).collect();
        return refuse(format!("unknown type {type_name}, expected one of {}", names.join(", ")));
    };
    let filterable = match parts.next() {
        None => data_type.is_filterable(),
        Some("nofilter") => false,
        Some(other) => return refuse(format!("unknown option {other}, expected nofilter")),
    };
    Ok(PropertyConfig { name, data_type, filterable, searchable: false, properties: Vec::new() })
}

async fn list(connection: &Connection, json: bool) -> Result<(), Failure> {
    let client = session::connect(connection).await?;
    let collections = client.collections().await?;
    let mut counts = Vec::new();
    for config in &collections {
        counts.push(Held::of(&client, config).await?);
    }
    if json {
        let entry = |(config, held): (&CollectionConfig, &Held)| {
            let (name, objects, tenants) = (&config.name, held.objects(), held.tenants());
            serde_json::json!({
                "name": name, "objects": objects, "tenants": tenants, "definition": config
            })
        };
        let entries: Vec<_> = collections.iter().zip(&counts).map(entry).collect();
        return print_json(&entries);
    }
    if collections.is_empty() {
        println!("no collections");
        return Ok(());
    }
    let mut table = Table::new(&["name", "holds", "vectors", "properties"]);
    for (config, count) in collections.iter().zip(&counts) {
        let vectors: Vec<String> = config.vectors.iter().map(vector_text).collect();
        table.row(vec![
            config.name.clone(),
            count.to_string(),
            vectors.join(", "),
            config.properties.len().to_string(),
        ]);
    }
    print!("{}", table.render(Style::of_stdout()));
    Ok(())
}

/// `384 cosine 4bit (raw on disk)`, with the name in front when there is one.
fn vector_text(vector: &VectorConfig) -> String {
    let dims = vector.dims.map_or_else(|| "?".to_owned(), |dims| dims.to_string());
    let name = if vector.name.is_empty() { String::new() } else { format!("{}: ", vector.name) };
    let codes = match vector.quantization {
        None | Some(Quantization::None) => String::new(),
        Some(codes) => format!(" {}", codes.name()),
    };
    let raw = if vector.raw == Some(RawVectors::Disk) { " (raw on disk)" } else { "" };
    format!("{name}{dims} {}{codes}{raw}", vector.distance.name())
}

/// As definitions write it.
fn kind_name(kind: IndexType) -> &'static str {
    match kind {
        IndexType::Hnsw => "hnsw",
        IndexType::Flat => "flat",
        IndexType::Dynamic => "dynamic",
    }
}

async fn show(name: &str, connection: &Connection, json: bool) -> Result<(), Failure> {
    let client = session::connect(connection).await?;
    let config = client.collection_config(name).await?;
    if json {
        return print_json(&config);
    }
    let style = Style::of_stdout();
    let held = Held::of(&client, &config).await?;
    println!("{}  {held}", style.bold(&config.name));
    for vector in &config.vectors {
        let index = &vector.index;
        println!(
            "  vector    {}, index {}, m {}, ef_construction {}, ef {}",
            vector_text(vector),
            kind_name(index.kind),
            index.m,
            index.ef_construction,
            index.ef
        );
    }
    println!("  shards    {}", config.sharding.count.max(1));
    for (what, labels) in
        [("require", &config.placement.require), ("avoid", &config.placement.avoid)]
    {
        for (key, value) in labels {
            println!("  {what:<9} {key}={value}");
        }
    }
    for property in &config.properties {
        let kept = if property.filterable { "" } else { "  (no filters)" };
        println!("  property  {}: {}{kept}", property.name, property.data_type.name());
    }
    Ok(())
}

/// What a collection holds.
#[derive(Clone, Copy)]
enum Held {
    Objects(u64),
    Tenants(u64),
}

impl Held {
    async fn of(client: &Client, config: &CollectionConfig) -> Result<Self, Failure> {
        let collection = client.collection(&config.name);
        if config.multi_tenancy.enabled {
            return Ok(Self::Tenants(collection.tenants_after("", 1).await?.total));
        }
        Ok(Self::Objects(collection.count(None).await?))
    }

    fn objects(self) -> Option<u64> {
        if let Self::Objects(count) = self { Some(count) } else { None }
    }

    fn tenants(self) -> Option<u64> {
        if let Self::Tenants(count) = self { Some(count) } else { None }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Objects(count) => write!(f, "{} objects", grouped(*count)),
            Self::Tenants(count) => write!(f, "{} tenants", grouped(*count)),
        }
    }
}

/// Drops a collection; returns what it held.
async fn drop_one(name: &str, is_sure: bool, connection: &Connection) -> Result<Held, Failure> {
    let client = session::connect(connection).await?;
    let id = client.topology().collections.get(name).map(|route| route.id.to_string());
    let config = client.collection_config(name).await?;
    let held = Held::of(&client, &config).await?;
    if !is_sure && !confirm(name, held)? {
        return Err(Failure::failed("nothing was dropped"));
    }
    client.drop_collection(name).await?;
    if let Some(id) = id {
        forget_collection(&id);
    }
    Ok(held)
}

fn confirm(name: &str, held: Held) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("say --yes to drop a collection without being asked"));
    }
    // Standard output is for the result.
    eprint!("Drop {name} and its {held}? Type its name: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_shows_what_is_special_about_it() {
        let mut vector = VectorConfig { dims: Some(384), ..VectorConfig::default() };
        assert_eq!(vector_text(&vector), "384 cosine");
        vector.quantization = Some(Quantization::None);
        vector.raw = Some(RawVectors::Memory);
        assert_eq!(vector_text(&vector), "384 cosine");
        vector.quantization = Some(Quantization::Bits4);
        assert_eq!(vector_text(&vector), "384 cosine 4bit");
        vector.raw = Some(RawVectors::Disk);
        vector.name = "title".to_owned();
        assert_eq!(vector_text(&vector), "title: 384 cosine 4bit (raw on disk)");
    }

    #[test]
    fn properties_are_read_with_type_and_option() {
        let read = property("tags:text[]").unwrap();
        assert_eq!((read.name.as_str(), read.data_type), ("tags", DataType::TextArray));
        assert!(read.filterable && !property("raw:text:nofilter").unwrap().filterable);
        for bad in ["year", "year:integer", "year:int:fast"] {
            assert!(property(bad).unwrap_err().message.contains(bad));
        }
    }
}
