//! What every command that talks to a node begins with.

use std::future::Future;

use heddle_client::{Client, ClientOptions, Collection, Consistency};
use heddle_types::json::filter_from_json;
use heddle_types::{CollectionConfig, Filter};

use crate::cli::Connection;
use crate::failure::Failure;
use crate::filter;

/// Runs a command's work to its end, on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Connects as the flags say.
pub(crate) async fn connect(connection: &Connection) -> Result<Client, Failure> {
    let options = ClientOptions { deadline: connection.timeout(), ..ClientOptions::default() };
    let client = Client::connect_with(connection.address.clone(), options).await;
    client.map_err(|error| {
        let failure = Failure::from(error);
        let addresses = connection.address.join(", ");
        let message = format!(
            "{}\nNo node speaks the native protocol at {addresses}; `heddle serve` starts one, \
             --address names another.",
            failure.message
        );
        Failure { message, ..failure }
    })
}

/// A handle on a collection, at a level if the flags name one.
pub(crate) fn collection(client: &Client, name: &str, level: Option<Consistency>) -> Collection {
    let collection = client.collection(name);
    level.map_or(collection.clone(), |level| collection.with_consistency(level))
}

/// The filter of `--filter` or `--filter-json`, under the schema of the collection.
pub(crate) fn read_filter(
    expression: Option<&str>,
    json: Option<&str>,
    config: &CollectionConfig,
) -> Result<Option<Filter>, Failure> {
    if let Some(expression) = expression {
        let filter = filter::parse(expression, config);
        let filter = filter.map_err(|error| Failure::usage(format!("--filter: {error}")))?;
        return Ok(Some(filter));
    }
    let Some(text) = json else { return Ok(None) };
    let json = serde_json::from_str(text)
        .map_err(|error| Failure::usage(format!("--filter-json: {error}")))?;
    let filter = filter_from_json(config, &json);
    Ok(Some(filter.map_err(|error| Failure::usage(format!("--filter-json: {error}")))?))
}
