"""The control process: state, shipping, pricing, migrations."""
