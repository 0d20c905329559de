-- Each line of an invoice at its newest: an issuer that sends a line again means the later one.
CREATE OR REPLACE VIEW invoices AS
SELECT * FROM
(
    SELECT * FROM invoice_lines FINAL
    ORDER BY issuer, invoice, line, known_ns DESC, digest DESC
    LIMIT 1 BY issuer, invoice, line
);
