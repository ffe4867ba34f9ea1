//! A buyer and a seller: the whole story over the public interfaces, each step asserted.
//!
//! Without arguments it starts a server of its own: the binary `$HAGGLE_BIN` (default `target/debug/haggle`) with the plugins in
//! `$HAGGLE_PLUGINS` (default `target/plugins`). Against a running one: `marketplace ADDRESS BUYER_TOKEN SELLER_TOKEN ADMIN_TOKEN`.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, ensure};
use haggle_example_client::{Rest, Server, Socket};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.as_slice() {
        [] => with_a_server_of_its_own().await,
        [address, buyer, seller, admin] => Story::new(address, buyer, seller, admin).play().await,
        _ => anyhow::bail!("usage: marketplace [ADDRESS BUYER_TOKEN SELLER_TOKEN ADMIN_TOKEN]"),
    }
}

async fn with_a_server_of_its_own() -> Result<()> {
    let path = |name: &str, default: &str| PathBuf::from(env::var_os(name).unwrap_or_else(|| default.into()));
    let data = tempfile::tempdir()?;
    let (binary, plugins) = (path("HAGGLE_BIN", "target/debug/haggle"), path("HAGGLE_PLUGINS", "target/plugins"));
    let server = Server::start(&binary, data.path(), &plugins, &[]).await?;
    let (buyer, seller) = (server.token("ann", &[]).await?, server.token("bob", &[]).await?);
    let admin = server.token("root", &["--role", "admin"]).await?;
    Story::new(&server.clients, &buyer, &seller, &admin).play().await?;
    let ended = server.stop().await?;
    ensure!(ended.success(), "the server drains and ends well: {ended}");
    Ok(())
}

struct Story {
    address: String,
    buyer_token: String,
    buyer: Rest,
    seller: Rest,
    admin: Rest,
}

fn step(text: &str) {
    println!("  {text}");
}

fn id_of(value: &Value) -> Result<String> {
    value["id"].as_str().map(str::to_owned).with_context(|| format!("no id in {value}"))
}

impl Story {
    fn new(address: &str, buyer: &str, seller: &str, admin: &str) -> Story {
        Story {
            address: address.to_owned(),
            buyer_token: buyer.to_owned(),
            buyer: Rest::new(address, Some(buyer)),
            seller: Rest::new(address, Some(seller)),
            admin: Rest::new(address, Some(admin)),
        }
    }

    async fn play(&self) -> Result<()> {
        let (buyer_id, seller_id) = self.profiles().await?;
        let conversation = self.conversation(&buyer_id, &seller_id).await?;
        let mut buyer = Socket::connect(&self.address, &self.buyer_token, json!({"me": 0})).await?;
        buyer.request(json!({"t": "sub", "c": conversation})).await?;
        self.talk(&mut buyer, &conversation).await?;
        self.offer(&mut buyer, &conversation).await?;
        self.booking(&mut buyer, &conversation).await?;
        self.receipts(&mut buyer, &conversation).await?;
        self.resume(buyer, &conversation).await?;
        self.notifications(&conversation).await?;
        println!("the whole story worked");
        Ok(())
    }

    async fn profiles(&self) -> Result<(String, String)> {
        step("two users with profiles; the seller has a service package");
        let buyer = id_of(&self.buyer.patch("/api/users/me", json!({"name": "Ann"})).await?.ok()?)?;
        let package = json!({"id": "massage", "name": "Massage Relaxant", "price": 80, "currency": "FCFA", "duration": "1 hour"});
        let seller = json!({"name": "Bob", "attributes": {"servicePackages": [package], "timeZone": "Africa/Douala"}});
        let seller = id_of(&self.seller.patch("/api/users/me", seller).await?.ok()?)?;
        let seen = self.admin.get(&format!("/api/users/{seller}")).await?.ok()?;
        ensure!(seen["name"] == "Bob", "the admin sees the profile: {seen}");
        Ok((buyer, seller))
    }

    async fn conversation(&self, buyer: &str, seller: &str) -> Result<String> {
        step("a direct conversation; asking twice gives the same one");
        let request = json!({"participants": [buyer, seller], "type": "direct"});
        let first = self.buyer.post("/api/conversations", request.clone()).await?;
        ensure!(matches!(first.status, 200 | 201), "{first:?}");
        let again = self.seller.post("/api/conversations", request).await?;
        ensure!(again.status == 200 && again.body["id"] == first.body["id"], "{again:?}");
        id_of(&first.body)
    }

    async fn talk(&self, buyer: &mut Socket, conversation: &str) -> Result<()> {
        step("a text each way, by WebSocket and by REST");
        let sent = buyer
            .request(json!({"t": "send", "c": conversation, "k": "hello-1", "n": "text", "d": {"content": "Hello <b>Bob</b> & co"}}))
            .await?;
        let again = buyer
            .request(json!({"t": "send", "c": conversation, "k": "hello-1", "n": "text", "d": {"content": "Hello <b>Bob</b> & co"}}))
            .await?;
        ensure!(
            again["mid"] == sent["mid"] && again["dup"] == true,
            "a retry gets the first answer: {again}"
        );
        let event = buyer.event("message.created").await?;
        ensure!(event["d"]["content"] == "Hello <b>Bob</b> & co", "byte-exact: {event}");
        let path = format!("/api/conversations/{conversation}/messages");
        let reply = self.seller.post(&path, json!({"content": "Hello Ann", "type": "text"})).await?;
        ensure!(reply.status == 201, "{reply:?}");
        let event = buyer.event("message.created").await?;
        ensure!(event["d"]["content"] == "Hello Ann" && event["d"]["id"] == reply.body["id"], "{event}");
        Ok(())
    }

    async fn offer(&self, buyer: &mut Socket, conversation: &str) -> Result<()> {
        step("a service offer, filled in from the seller's package, accepted by the buyer only");
        let path = format!("/api/conversations/{conversation}/messages/service-offer");
        let offer = self
            .seller
            .post(&path, json!({"servicePackageId": "massage", "message": "for you"}))
            .await?
            .ok()?;
        ensure!(offer["content"] == "Service proposé: Massage Relaxant", "{offer}");
        ensure!(offer["metadata"]["price"] == 80 && offer["metadata"]["status"] == "open", "{offer}");
        let unknown = self.seller.post(&path, json!({"servicePackageId": "nothing"})).await?;
        ensure!(unknown.code() == "plugin_rejected", "{unknown:?}");
        let accept = json!({"messageId": offer["id"]});
        let command = format!("/api/conversations/{conversation}/commands/offer.accept");
        let own = self.seller.post(&command, accept.clone()).await?;
        ensure!(own.code() == "plugin_rejected", "only the addressee accepts: {own:?}");
        buyer
            .request(json!({"t": "call", "n": "offer.accept", "c": conversation, "d": accept}))
            .await?;
        let edited = buyer.event("message.edited").await?;
        ensure!(edited["d"]["metadata"]["status"] == "accepted", "{edited}");
        Ok(())
    }

    async fn booking(&self, buyer: &mut Socket, conversation: &str) -> Result<()> {
        step("a booking request; the slot can be had once; the seller confirms");
        let path = format!("/api/conversations/{conversation}/messages/booking-request");
        let date = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 30);
        let date = date.to_string();
        let request = json!({"servicePackageId": "massage", "requestedDate": &date[..10], "requestedTime": "14:30", "message": "please"});
        let booking = self.buyer.post(&path, request.clone()).await?.ok()?;
        ensure!(booking["content"] == "Demande de réservation: Massage Relaxant", "{booking}");
        let taken = self.buyer.post(&path, request).await?;
        ensure!(taken.code() == "plugin_rejected", "the slot is taken: {taken:?}");
        let command = format!("/api/conversations/{conversation}/commands/booking.confirm");
        self.seller.post(&command, json!({"messageId": booking["id"]})).await?.ok()?;
        let edited = buyer.event("message.edited").await?;
        ensure!(edited["d"]["metadata"]["status"] == "confirmed", "{edited}");
        Ok(())
    }

    async fn receipts(&self, buyer: &mut Socket, conversation: &str) -> Result<()> {
        step("read receipts: the seller reads, the buyer sees it");
        let sent = buyer
            .request(json!({"t": "send", "c": conversation, "k": "hello-2", "n": "text", "d": {"content": "see you"}}))
            .await?;
        let unread = self.seller.get(&format!("/api/conversations/{conversation}/unread-count")).await?.ok()?;
        ensure!(unread["unreadCount"].as_u64() >= Some(1), "{unread}");
        let message = sent["mid"].as_str().context("the ack has a message id")?;
        self.seller.post(&format!("/api/messages/{message}/read"), json!({})).await?.ok()?;
        buyer
            .next_where(|frame| frame["t"] == "mark" && frame["read"].as_u64() >= sent["s"].as_u64())
            .await?;
        let unread = self.seller.get(&format!("/api/conversations/{conversation}/unread-count")).await?.ok()?;
        ensure!(unread["unreadCount"] == 0, "{unread}");
        let reads = self.buyer.get(&format!("/api/messages/{message}/reads")).await?.ok()?;
        ensure!(reads["reads"].as_array().is_some_and(|reads| !reads.is_empty()), "{reads}");
        Ok(())
    }

    async fn resume(&self, buyer: Socket, conversation: &str) -> Result<()> {
        step("the buyer is away for twenty messages and misses none");
        let path = format!("/api/conversations/{conversation}/messages");
        let seen = self.head(conversation).await?;
        drop(buyer);
        for n in 0..20 {
            self.seller
                .post(&path, json!({"content": format!("while you were away {n}"), "type": "text"}))
                .await?
                .ok()?;
        }
        let mut buyer = Socket::connect(&self.address, &self.buyer_token, json!({"cur": {conversation: seen}})).await?;
        for n in 0..20 {
            let event = buyer.event("message.created").await?;
            ensure!(event["s"] == seen + 1 + n, "dense from {seen}: {event}");
            ensure!(event["d"]["content"] == format!("while you were away {n}"), "{event}");
        }
        Ok(())
    }

    /// Seq of the conversation's last event.
    async fn head(&self, conversation: &str) -> Result<u64> {
        let mut after = 0;
        loop {
            let page = self
                .buyer
                .get(&format!("/api/conversations/{conversation}/events?after={after}"))
                .await?
                .ok()?;
            let events = page["events"].as_array().context("a page of events")?;
            match events.last().and_then(|event| event["seq"].as_u64()) {
                Some(seq) => after = seq,
                None => return Ok(after),
            }
        }
    }

    async fn notifications(&self, conversation: &str) -> Result<()> {
        step("the seller, who was not looking, has notifications; reading them ends that");
        let mut page = Value::Null;
        for _ in 0..100 {
            page = self.seller.get("/api/notifications").await?.ok()?;
            let has = |topic: &str| {
                page["notifications"]
                    .as_array()
                    .is_some_and(|list| list.iter().any(|one| one["type"] == topic))
            };
            if has("MESSAGE_RECEIVED") && has("CHAT_CREATED") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let list = page["notifications"].as_array().context("a list")?;
        ensure!(list.iter().any(|one| one["type"] == "MESSAGE_RECEIVED"), "in {conversation}: {page}");
        self.seller.post("/api/notifications/read-all", json!({})).await?.ok()?;
        let count = self.seller.get("/api/notifications/unread-count").await?.ok()?;
        ensure!(count["unreadCount"] == 0, "{count}");
        Ok(())
    }
}
