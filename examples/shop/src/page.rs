//! The page: the shelf, with a form for each product, and a script that keeps the numbers up to date.

use std::fmt::Write;

use crate::Product;

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Shop</title>
<link rel="icon" href="data:,">
<style>
  body { font-family: sans-serif; max-width: 40em; margin: 2em auto; }
  td { padding: 0.3em 1em 0.3em 0; }
  td.stock { text-align: right; }
</style>
<h1>Shop</h1>
<table>
"#;

const TAIL: &str = r#"</table>
<script>
  async function refresh() {
    const stock = await (await fetch("/stock")).json();
    for (const row of document.querySelectorAll("tr")) {
      const left = stock[row.dataset.product];
      row.querySelector(".stock").textContent = left;
      row.querySelector("button").disabled = left === 0;
    }
  }
  setInterval(() => refresh().catch(() => {}), 500); // Tries again, should the shop be busy.
</script>
"#;

/// Writes the page. Each form has a number of its own, from `number`.
pub(crate) fn page(products: &[Product], mut number: impl FnMut() -> i64) -> String {
    let mut page = HEAD.to_owned();
    for Product { id, name, stock } in products {
        let disabled = if *stock == 0 { " disabled" } else { "" };
        let _ = writeln!(
            page,
            "<tr data-product=\"{id}\"><td>{name}<td class=\"stock\">{stock}<td>\
             <form method=\"post\" action=\"/buy\">\
             <input type=\"hidden\" name=\"number\" value=\"{number}\">\
             <button name=\"product\" value=\"{id}\"{disabled}>Buy</button></form>",
            name = escaped(name),
            number = number(),
        );
    }
    page + TAIL
}

/// The stock of each product, for the script.
pub(crate) fn stock(products: &[Product]) -> String {
    let entries: Vec<_> =
        products.iter().map(|product| format!("\"{}\":{}", product.id, product.stock)).collect();
    format!("{{{}}}", entries.join(","))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
