//! `ops erase-user`.

use clap::Args;
use serde_json::json;

use super::session::{self, ServerArgs};
use crate::cli::Failure;
use crate::cli::order::{ClientFailure, print, print_json};
use crate::clients::admin::AdminClient;
use crate::clients::orders::ApiError;
use crate::proto::admin::EraseUserRequest;

#[derive(Args, Debug)]
#[command(after_help = "\
The keys of the user are destroyed first; with them all that they encrypted is gone, in the database and in every backup \
that does not hold the keys. Then the names, address lines, towns, telephone numbers, email addresses, notes and metadata \
are taken out of the orders; amounts, items, statuses, country and the first three characters of the postal code stay. Every \
encrypted text that is found is tried before that, and the output says how many could still be read: 0. Other nodes \
forget the keys within privacy.keep_for. To run it again does no harm and finishes what was cut short.

Notes that were put in the history before encryption was on stay, since nodes may not change the history: then the output \
counts them and the exit code is 1, until the owner of the tables has blanked them in order_events and \
order_status_history. What staff wrote as a reason (of holds, repairs, and of acting for somebody) is a record of theirs \
and stays.

Exit code 0 when nothing of the user can be read any more, 1 otherwise.

Example:
  order-service ops erase-user 123e4567-e89b-12d3-a456-426614174000 --reason 'request 4711' --by ada --yes")]
pub(super) struct EraseUserArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The user's id.
    #[arg(value_name = "USER_ID")]
    user_id: String,
    /// Why; up to 500 characters, kept, without personal data.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who wants it, besides the principal of the call; up to 100 characters, kept.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    by: String,
    /// Also while the user has orders that are not finished: what they still need an address for will fail.
    #[arg(long)]
    force: bool,
    /// It cannot be undone: say so.
    #[arg(long, required = true)]
    yes: bool,
}

/// All pages together.
#[derive(Default)]
struct Proof {
    at: Option<String>,
    keys: Vec<String>,
    orders: i64,
    sealed: i64,
    opened: i64,
    plain: i64,
    plain_history: i64,
    failed: Vec<String>,
}

impl Proof {
    fn holds(&self) -> bool {
        self.opened == 0 && self.plain_history == 0 && self.failed.is_empty()
    }
}

async fn erase(client: &mut AdminClient, mut request: EraseUserRequest) -> Result<Proof, ApiError> {
    let mut proof = Proof::default();
    loop {
        let page = client.erase_user(request.clone()).await?;
        proof.at = proof.at.or_else(|| page.at.map(|at| at.to_string()));
        proof.keys.extend(page.destroyed_keys);
        proof.orders = proof.orders.saturating_add(page.orders);
        proof.sealed = proof.sealed.saturating_add(page.sealed_texts);
        proof.opened = proof.opened.saturating_add(page.opened_texts);
        proof.plain = proof.plain.saturating_add(page.plain_texts);
        proof.plain_history = proof.plain_history.saturating_add(page.plain_history_texts);
        proof.failed.extend(page.failed_orders);
        if page.next_page_token.is_empty() {
            return Ok(proof);
        }
        request.page_token = page.next_page_token;
    }
}

fn show(user: &str, proof: &Proof, is_json: bool) -> Result<(), ClientFailure> {
    let at = proof.at.as_deref().unwrap_or_default();
    if is_json {
        print_json(&json!({
            "user_id": user,
            "erased_at": at,
            "destroyed_keys": proof.keys,
            "orders": proof.orders,
            "encrypted_texts_tried": proof.sealed,
            "encrypted_texts_readable": proof.opened,
            "plain_texts_found": proof.plain,
            "plain_texts_in_history": proof.plain_history,
            "failed_orders": proof.failed,
            "erased": proof.holds(),
        }))?;
    } else {
        let keys = match proof.keys.as_slice() {
            [] => String::from("no key was left to destroy"),
            keys => format!("destroyed key {}", keys.join(", ")),
        };
        let mut text = format!(
            "{at} user {user}: {keys}\n{} orders; {} encrypted texts tried, {} of them readable",
            proof.orders, proof.sealed, proof.opened
        );
        if proof.plain > 0 {
            let plain = proof.plain;
            text.push_str(&format!("\n{plain} texts were stored before encryption was on"));
        }
        if proof.plain_history > 0 {
            text.push_str(&format!(
                "\n{} of them are notes in the history and stay: no node may change it",
                proof.plain_history
            ));
        }
        if !proof.failed.is_empty() {
            text.push_str(&format!("\nnot done, run it again: {}", proof.failed.join(", ")));
        }
        print(&text)?;
    }
    if proof.holds() {
        return Ok(());
    }
    let sentence = if proof.opened == 0 && proof.failed.is_empty() {
        "notes in the history can still be read; have the owner of the tables blank them in order_events and \
         order_status_history, note the orders for the audit, which will tell their events as altered, and run it again"
    } else {
        "not everything is erased; run it again, and look at the log of the node if that does not help"
    };
    Err(ClientFailure::from(ApiError::local("FAILED_PRECONDITION", sentence)))
}

pub(super) fn run(arguments: EraseUserArgs) -> Result<(), Failure> {
    let EraseUserArgs { server, user_id, reason, by, force, yes: _ } = arguments;
    let request = EraseUserRequest { user_id: user_id.clone(), reason, by, force, page_token: String::new() };
    session::run(
        &server,
        async |client| erase(client, request).await,
        |proof, is_json| show(&user_id, &proof, is_json),
    )
}
