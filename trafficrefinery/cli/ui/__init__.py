"""What commands show: tables, bars and views."""
