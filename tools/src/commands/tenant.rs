//! `heddle tenant`: create, list, show, activate, deactivate and delete.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use heddle_client::{Collection, Tenant as Found, TenantAction};
use heddle_types::limits::{TENANT_BATCH_MAX, TENANT_LIST_MAX};

use crate::cli::{Tenant, TenantList, Tenants};
use crate::failure::Failure;
use crate::output::{Style, Table, grouped, print_json};
use crate::session;

pub(crate) async fn run(action: &Tenant) -> Result<(), Failure> {
    match action {
        Tenant::Create { tenants, inactive: false } => {
            change(tenants, TenantAction::Create, "created").await
        }
        Tenant::Create { tenants, inactive: true } => {
            change(tenants, TenantAction::CreateInactive, "created").await
        }
        Tenant::Activate(tenants) => change(tenants, TenantAction::Activate, "activated").await,
        Tenant::Deactivate(tenants) => {
            change(tenants, TenantAction::Deactivate, "deactivated").await
        }
        Tenant::Delete { tenants, yes } => {
            if !yes {
                confirm(tenants)?;
            }
            change(tenants, TenantAction::Delete, "deleted").await
        }
        Tenant::List(list) => show_list(list).await,
        Tenant::Show(tenants) => show(tenants).await,
    }
}

/// The names of the arguments and of the file.
fn names_of(tenants: &Tenants) -> Result<Vec<String>, Failure> {
    let mut names = tenants.names.clone();
    if let Some(path) = &tenants.file {
        let mut text = String::new();
        if path == Path::new("-") {
            std::io::stdin().read_to_string(&mut text)?;
        } else {
            text = std::fs::read_to_string(path).map_err(|error| Failure::input(path, error))?;
        }
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        names.extend(lines.map(str::to_owned));
    }
    if names.is_empty() {
        return Err(Failure::usage("no tenant is named"));
    }
    Ok(names)
}

fn confirm(tenants: &Tenants) -> Result<(), Failure> {
    let reads_names = tenants.file.as_deref() == Some(Path::new("-"));
    if reads_names || !std::io::stdin().is_terminal() {
        return Err(Failure::usage("tenants are deleted only with --yes when nobody can be asked"));
    }
    print!("Delete {} with everything in them? [y/N] ", shown(&names_of(tenants)?));
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was deleted")),
    }
}

/// The first names.
fn shown(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
    match names.len() {
        0..=3 => first.join(", "),
        count => format!("{} and {} more tenants", first.join(", "), grouped(count as u64 - 3)),
    }
}

async fn change(tenants: &Tenants, action: TenantAction, verb: &str) -> Result<(), Failure> {
    let names = names_of(tenants)?;
    let client = session::connect(&tenants.connection).await?;
    let collection = client.collection(&tenants.collection);
    let changed = collection.change_tenants(action, &names).await?;
    if tenants.json {
        return print_json(&serde_json::json!({ verb: changed, "named": names.len() }));
    }
    let (named, changed) = (names.len() as u64, grouped(changed));
    println!("{verb} {changed} of {} tenants of {}", grouped(named), tenants.collection);
    Ok(())
}

fn state_of(tenant: &Found) -> &'static str {
    if tenant.is_active { "active" } else { "inactive" }
}

async fn show_list(list: &TenantList) -> Result<(), Failure> {
    let client = session::connect(&list.connection).await?;
    let collection = client.collection(&list.collection);
    let limit = if list.all { TENANT_LIST_MAX } else { list.limit };
    let mut page = collection.tenants_after(&list.after, limit).await?;
    let mut tenants = page.tenants;
    while page.has_more && (list.all || (tenants.len() as u64) < u64::from(list.limit)) {
        let last = tenants.last().map(|tenant| tenant.name.clone()).unwrap_or_default();
        page = collection.tenants_after(&last, limit).await?;
        tenants.append(&mut page.tenants);
    }
    if !list.all {
        tenants.truncate(list.limit as usize);
    }
    if list.json {
        let entry =
            |tenant: &Found| serde_json::json!({ "name": tenant.name, "state": state_of(tenant) });
        let entries: Vec<_> = tenants.iter().map(entry).collect();
        let (total, active) = (page.total, page.active);
        return print_json(
            &serde_json::json!({ "total": total, "active": active, "tenants": entries }),
        );
    }
    if page.total == 0 {
        println!("collection {} has no tenants yet", list.collection);
        return Ok(());
    }
    let mut table = Table::new(&["name", "state"]);
    for tenant in &tenants {
        table.row(vec![tenant.name.clone(), state_of(tenant).to_owned()]);
    }
    print!("{}", table.render(Style::of_stdout()));
    println!("{} tenants, {} of them active", grouped(page.total), grouped(page.active));
    Ok(())
}

async fn show(tenants: &Tenants) -> Result<(), Failure> {
    let names = names_of(tenants)?;
    let client = session::connect(&tenants.connection).await?;
    let collection = client.collection(&tenants.collection);
    let found = all_named(&collection, &names).await?;
    let is_there = |name: &&String| found.iter().any(|tenant| tenant.name == **name);
    if let Some(name) = names.iter().find(|name| !is_there(name)) {
        let collection = &tenants.collection;
        return Err(Failure::not_found(format!("collection {collection} has no tenant {name}")));
    }
    let topology = client.topology();
    let node = |id: &heddle_types::NodeId| {
        let known = topology.nodes.iter().find(|node| node.id == *id);
        known.map_or_else(|| id.to_string(), |node| node.name.clone())
    };
    if tenants.json {
        let entry = |tenant: &Found| {
            let shards = tenant.shards.iter().map(|(shard, nodes)| {
                let nodes: Vec<String> = nodes.iter().map(node).collect();
                serde_json::json!({ "shard": shard.0, "nodes": nodes })
            });
            let shards: Vec<_> = shards.collect();
            serde_json::json!({ "name": tenant.name, "state": state_of(tenant), "shards": shards })
        };
        return print_json(&found.iter().map(entry).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["name", "state", "shard", "nodes"]);
    for tenant in &found {
        for (shard, nodes) in &tenant.shards {
            let nodes: Vec<String> = nodes.iter().map(node).collect();
            let (name, state) = (tenant.name.clone(), state_of(tenant).to_owned());
            table.row(vec![name, state, shard.0.to_string(), nodes.join(", ")]);
        }
    }
    print!("{}", table.render(Style::of_stdout()));
    Ok(())
}

async fn all_named(collection: &Collection, names: &[String]) -> Result<Vec<Found>, Failure> {
    let mut found = Vec::new();
    for part in names.chunks(TENANT_BATCH_MAX) {
        found.extend(collection.tenants_named(part).await?);
    }
    Ok(found)
}
